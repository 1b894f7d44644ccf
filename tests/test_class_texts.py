"""What a list of classes is turned into must fit what is learned."""

import pytest
from peft import get_peft_model

from peft_coop import METHODS, CoOpConfig, Method


def test_a_prompt_that_names_vectors_which_are_not_there(clip, tokenizer_path, monkeypatch):
    class TooFew(METHODS["coop"].prompt):
        def vectors(self, image_embeds=None):
            return super().vectors()[:3]

    monkeypatch.setitem(
        METHODS, "coop", Method(key="coop", title="CoOp", config=CoOpConfig, prompt=TooFew, reference="2109.01134")
    )
    config = CoOpConfig(n_ctx=4, class_names=["cat", "dog"], tokenizer_name_or_path=tokenizer_path)
    model = get_peft_model(clip, config)
    with pytest.raises(
        ValueError,
        match="The prompts need 4 learnable vectors, and there are 3 at the embeddings: `sequences` and the vec",
    ):
        model.get_text_features()


def test_settings_that_tell_prompts_apart():
    """All of a method's own, where it does not say which."""
    assert METHODS["coop"].own_settings == METHODS["cocoop"].own_settings == ()
    assert METHODS["kgcoop"].own_settings == ("kg_weight",)
    silent = Method(key="coop", title="CoOp", config=CoOpConfig, prompt=METHODS["coop"].prompt)
    assert {"n_ctx", "ctx_init", "class_template", "meta_net_reduction"} <= set(silent.own_settings)
    assert not {"class_names", "zero_shot_template", "peft_type"} & set(silent.own_settings)
