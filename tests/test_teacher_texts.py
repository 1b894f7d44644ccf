"""Classes whose hand-written prompts are too long for the text tower: told when they are given, not while training."""

import pytest
import torch
from conftest import make_clip
from peft import PeftModel, get_peft_model

from peft_coop import KgCoOpConfig, PromptSRCConfig, TCPConfig

LENGTH = 12  # tokens that the tower reads
LONG = "a b c d e"
TEMPLATE = "one two three four five six {}."
# Two special tokens, six words, five letters and the full stop.
MESSAGE = r"The prompt for 'a b c d e' in the template 'one two .* six \{\}\.' needs 14 tokens .* text tower reads 12"
CONFIGS = {
    "kgcoop": lambda **given: KgCoOpConfig(zero_shot_template=TEMPLATE, **given),
    "tcp": lambda **given: TCPConfig(zero_shot_template=TEMPLATE, replaced_layer=1, **given),
    "promptsrc": lambda **given: PromptSRCConfig(
        zero_shot_template="{}.", teacher_templates=["a {}.", TEMPLATE], **given
    ),
}
every_method = pytest.mark.parametrize("method", CONFIGS)


@pytest.fixture
def make_model(tokenizer_path):
    def make(method, names, **given):
        config = CONFIGS[method](n_ctx=4, class_names=names, tokenizer_name_or_path=tokenizer_path, **given)
        return get_peft_model(make_clip(max_position_embeddings=LENGTH).double(), config)

    return make


@every_method
def test_they_are_refused_with_the_class_and_the_template(make_model, method):
    with pytest.raises(ValueError, match=MESSAGE):
        make_model(method, ["cat", LONG])
    model = make_model(method, ["cat", "dog"])
    with pytest.raises(ValueError, match=f"{MESSAGE}.* shorten the name or the template to 10 tokens together"):
        model.set_classes(["dog", LONG])
    assert model.class_names == ["cat", "dog"]


def test_what_only_classifies_needs_no_teacher(make_model, tmp_path):
    """Neither loaded, nor made for inference, nor frozen later; trained, it does."""
    model = make_model("promptsrc", ["cat", "dog"]).eval()
    with pytest.raises(ValueError, match="It is one of `teacher_templates`, which training needs"):
        model.set_classes(["dog", LONG])
    model.set_adapter("default", inference_mode=True)
    model.set_classes(["dog", LONG])
    pixel_values = torch.randn(2, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    logits = model(pixel_values=pixel_values).logits.detach()
    model.save_pretrained(tmp_path)
    base = make_clip(max_position_embeddings=LENGTH).double()
    loaded = PeftModel.from_pretrained(base, tmp_path).eval()
    assert loaded.class_names == ["dog", LONG]
    torch.testing.assert_close(loaded(pixel_values=pixel_values).logits, logits, atol=1e-9, rtol=0)
    loaded.set_classes(["cat", LONG])
    assert make_model("promptsrc", ["cat", LONG], inference_mode=True).class_names == ["cat", LONG]
    with pytest.raises(ValueError, match=MESSAGE):
        PeftModel.from_pretrained(make_clip(max_position_embeddings=LENGTH).double(), tmp_path, is_trainable=True)
