"""transformers' own `load_adapter` and `save_pretrained` of a CLIP check what PEFT's check, and lose nothing."""

import warnings

import pytest
import torch
from conftest import make_clip
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from test_errors import left_as_it_was
from test_loading import ANIMALS, change_config, logits, save
from transformers import AutoModel, CLIPModel

from peft_coop import CoCoOpConfig, CoOpConfig

# PEFT's, of every further adapter.
pytestmark = pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute in the model")

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def make_model(tokenizer_path):
    def make(base=None, method=CoOpConfig, **settings):
        defaults = {"class_names": ANIMALS, "tokenizer_name_or_path": tokenizer_path, "n_ctx": 4}
        return get_peft_model(base or make_clip(), method(**defaults | settings)).eval()

    return make


def change_weights(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    return folder


CONTEXT, PROJECTION = "text_model.embeddings.coop_ctx", "visual_projection.weight"
PREFIX = "base_model.model."
WRONG = {
    "base weight": (lambda file: file.update({f"{PREFIX}logit_scale": torch.zeros(())}), "of the base model: logit_sc"),
    "no prefix": (lambda file: file.update(logit_scale=torch.zeros(())), "of the base model: logit_scale"),
    "no context": (lambda file: file.pop(PREFIX + CONTEXT), "does not fit its config: the weights are .* should be"),
    "shape": (
        lambda file: file.update({PREFIX + CONTEXT: torch.zeros(5, 24)}),
        r"is \(5, 24\) in the file and \(4",
    ),
    "no module": (
        lambda file: file.pop(PREFIX + PROJECTION),
        "should be .*visual_projection",
    ),
    "shape of a module": (
        lambda file: file.update({PREFIX + PROJECTION: torch.zeros(8, 32)}),
        r"does not fit this model: visual_projection\.weight is \(8, 32\) in the file and \(40, 32\) here",
    ),
    "a module of no config": (
        lambda file: file.update({f"{PREFIX}text_projection.modules_to_save.z.weight": torch.zeros(40, 24)}),
        r"of the base model: text_projection\.modules_to_save",
    ),
}
every_wrong = pytest.mark.parametrize(("change", "message"), WRONG.values(), ids=WRONG)


@every_wrong
@pytest.mark.parametrize("settings", [{}, {"is_trainable": True}], ids=str)
def test_the_first_prompt_that_does_not_fit_leaves_a_plain_clip(make_model, tmp_path, change, message, settings):
    saved = change_weights(save(make_model(modules_to_save=["visual_projection"]), tmp_path), change)
    clip = make_clip()
    with left_as_it_was(clip), pytest.raises(ValueError, match=message):
        clip.load_adapter(saved, "z", **settings)
    assert type(clip) is CLIPModel
    assert not hasattr(clip, "peft_config")


@every_wrong
def test_a_further_one_leaves_the_first(make_model, tmp_path, change, message):
    clip = make_clip()
    clip.load_adapter(save(make_model(), tmp_path / "good"), "a")
    before = logits(clip)
    saved = change_weights(save(make_model(modules_to_save=["visual_projection"]), tmp_path / "bad"), change)
    with left_as_it_was(clip), pytest.raises(ValueError, match=message):
        clip.load_adapter(saved, "z")
    assert clip.active_adapters() == ["a"]
    assert torch.equal(logits(clip), before)


@every_wrong
def test_so_do_pefts(make_model, tmp_path, change, message):
    """The names in the messages are those in the model, with PEFT's prefix and the adapter's name."""
    saved = change_weights(save(make_model(modules_to_save=["visual_projection"]), tmp_path), change)
    clip, model = make_clip(), make_model()
    is_base = "of the base model" in message
    kind = "of the base model" if is_base else r"does not fit (its config|this model): .*(ctx|visual_projection)"
    with left_as_it_was(clip), pytest.raises(ValueError, match=kind):
        PeftModel.from_pretrained(clip, saved)
    with left_as_it_was(model), pytest.raises(ValueError, match=kind):
        model.load_adapter(saved, "z")


def test_a_missing_file_leaves_the_prompts_that_are_there(make_model, tmp_path):
    clip = make_clip()
    clip.load_adapter(save(make_model(), tmp_path), "a")
    (tmp_path / WEIGHTS).unlink()
    with left_as_it_was(clip), pytest.raises(OSError, match="adapter_model"):
        clip.load_adapter(tmp_path, "z")


def test_tensors_that_are_given_are_checked(make_model, tmp_path):
    saved = save(make_model(), tmp_path)
    tensors = load_file(saved / WEIGHTS) | {"logit_scale": torch.zeros(())}
    clip = make_clip()
    with left_as_it_was(clip), pytest.raises(ValueError, match="of the base model: logit_scale"):
        clip.load_adapter(peft_config=PeftConfig.from_pretrained(saved), adapter_state_dict=tensors)


@pytest.mark.parametrize("settings", [{"class_token_position": "middle"}, {"modules_to_save": ["visual_projection"]}])
@pytest.mark.parametrize("method", [CoOpConfig, CoCoOpConfig])
def test_what_fits_is_loaded_and_saved(make_model, tmp_path, pixel_values, method, settings):
    settings = {**settings, "ctx_init": None}
    model = make_model(method=method, **settings)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.add_(0.1 * torch.randn_like(weight))
    saved = save(model, tmp_path / "peft")
    clip = make_clip()
    for name in ("a", "b"):
        clip.load_adapter(saved, name)
    clip.set_adapter("b")
    clip.save_pretrained(tmp_path / "transformers")
    with torch.no_grad():
        expected = model(pixel_values=pixel_values).logits
        torch.testing.assert_close(clip.eval()(pixel_values=pixel_values).logits, expected, atol=1e-4, rtol=0)
        again = PeftModel.from_pretrained(make_clip(), tmp_path / "transformers")
        torch.testing.assert_close(again(pixel_values=pixel_values).logits, expected, atol=1e-4, rtol=0)


def test_a_lora_beside_a_prompt_is_none_of_its_tensors(make_model, tmp_path):
    lora = get_peft_model(make_clip(), LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    lora.save_pretrained(tmp_path / "lora")
    clip = make_clip()
    clip.load_adapter(save(make_model(), tmp_path / "prompt"), "a")
    clip.load_adapter(tmp_path / "lora", "style")
    assert list(clip.peft_config) == ["a", "style"]


def test_another_base_model_is_named(make_model, tmp_path):
    saved = save(make_model(), tmp_path)
    change_config(saved, base_model_name_or_path="laion/clip")
    clip = make_clip()
    clip.name_or_path = "openai/clip"
    for name in ("a", "b"):
        with pytest.warns(UserWarning, match="trained on 'laion/clip' and is loaded on 'openai/clip'"):
            clip.load_adapter(saved, name)


def test_a_config_that_was_changed_is_saved_as_the_model_is(make_model, tmp_path):
    clip = make_clip()
    clip.load_adapter(save(make_model(), tmp_path / "first"), "a")
    before = logits(clip)
    clip.peft_config["a"].class_names.reverse()
    with pytest.warns(UserWarning, match="`class_names` of adapter 'a' was changed"):
        clip.save_pretrained(tmp_path / "second")
    loaded = PeftModel.from_pretrained(make_clip(), tmp_path / "second")
    assert loaded.class_names == ANIMALS
    assert torch.equal(logits(loaded), before)


def test_trained_weights_that_are_not_saved_are_named(make_model, tmp_path):
    clip = make_clip()
    clip.load_adapter(save(make_model(), tmp_path), is_trainable=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip.save_pretrained(tmp_path)
    clip.logit_scale.requires_grad = True
    with pytest.warns(UserWarning, match=r"not saved with the adapters: logit_scale\. Name"):
        clip.save_pretrained(tmp_path)


def test_a_whole_model_is_saved_and_loaded_as_ever(make_model, tmp_path):
    clip = make_clip()
    make_model(clip).unload()
    clip.save_pretrained(tmp_path)
    for key, weight in AutoModel.from_pretrained(tmp_path).state_dict().items():
        assert torch.equal(weight, clip.state_dict()[key]), key


def test_another_method_with_our_task_type_is_saved(tmp_path):
    config = LoraConfig(target_modules=["q_proj"], task_type="IMAGE_CLS")
    model = get_peft_model(make_clip(), config)
    model.save_pretrained(tmp_path)
    assert (tmp_path / WEIGHTS).is_file()
