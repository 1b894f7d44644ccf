"""Terms of the loss beside cross-entropy: added in training only, and reported before weighting."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import make_clip
from method_kinds import small_config
from peft import get_peft_model
from task_inputs import as_given, labels_as_given, task_of

from peft_coop import CoOpConfig
from peft_coop.methods import METHODS, LossTerm, Prompt
from peft_coop.methods.config import check_number
from peft_coop.methods.coop import CoOpPrompt

LABELS = torch.tensor([0, 1, 2, 0, 1])


class TermsPrompt(CoOpPrompt):
    """CoOp with a term that is added, and a part that is only reported."""

    def extra_losses(self, step):
        self.labels_seen = step.labels
        return {"size": LossTerm(step.vectors.square().sum(), weight=3.0), "spread": LossTerm(step.logits.std(), 0)}


@pytest.fixture
def make_model(monkeypatch, tokenizer_path):
    def make(prompt=TermsPrompt, **settings):
        monkeypatch.setitem(METHODS, "coop", replace(METHODS["coop"], prompt=prompt))
        torch.manual_seed(0)
        settings = {"n_ctx": 3, "class_names": ["cat", "dog", "kite"], **settings}
        config = CoOpConfig(tokenizer_name_or_path=tokenizer_path, **settings)
        return get_peft_model(make_clip(), config).double().train()

    return make


def test_terms_are_part_of_the_loss_in_training_only(make_model, pixel_values):
    model = make_model()
    inputs = {"pixel_values": pixel_values.double(), "labels": LABELS}
    outputs = model(**inputs)
    size = model.prompt_layer.prompt.ctx.square().sum()
    cross_entropy = F.cross_entropy(outputs.logits, LABELS)
    assert outputs.loss.item() == pytest.approx((cross_entropy + 3 * size).item(), rel=1e-12)
    assert list(outputs.loss_parts) == ["cross_entropy", "size", "spread"]
    expected = [cross_entropy, size, outputs.logits.std()]
    assert [part.item() for part in outputs.loss_parts.values()] == pytest.approx([each.item() for each in expected])
    assert not any(part.requires_grad for part in outputs.loss_parts.values())
    model.eval()
    with torch.no_grad():
        evaluated = model(**inputs)
    assert evaluated.loss.item() == pytest.approx(cross_entropy.item(), rel=1e-12)
    assert evaluated.loss_parts is None


def test_micro_batches_add_up_to_the_batch(make_model, pixel_values):
    """`num_items_in_batch` divides a method's terms as it does cross-entropy."""
    model = make_model()
    whole = model(pixel_values=pixel_values.double(), labels=LABELS)
    parts = [
        model(pixel_values=pixel_values[rows].double(), labels=LABELS[rows], num_items_in_batch=torch.tensor(5))
        for rows in (slice(0, 3), slice(3, 5))
    ]
    assert sum(part.loss for part in parts).item() == pytest.approx(whole.loss.item(), rel=1e-12)
    mean = sum(share * part.loss_parts["cross_entropy"] for share, part in zip((0.6, 0.4), parts, strict=True))
    assert mean.item() == pytest.approx(whole.loss_parts["cross_entropy"].item(), rel=1e-12)


def test_a_loss_outside_the_model_lacks_the_terms_with_a_warning(make_model, pixel_values):
    model = make_model()
    with pytest.warns(UserWarning, match="trained without `labels`, .* lacks the method's own size: give it `labels`"):
        outputs = model(pixel_values=pixel_values.double())
    assert outputs.loss is None
    assert list(outputs.loss_parts) == ["size", "spread"]
    assert model.prompt_layer.prompt.labels_seen is None


def test_a_loss_outside_the_model_is_no_sigmoid_loss(make_model, pixel_values):
    """Label smoothing by the Trainer is cross-entropy's, whatever `loss_type` says."""
    model = make_model(CoOpPrompt, loss_type="sigmoid")
    with pytest.warns(UserWarning, match="trained without `labels`, .* lacks the method's own sigmoid"):
        model(pixel_values=pixel_values.double())


@pytest.mark.parametrize("without", ["training", "gradient", "adapter", "terms"])
@pytest.mark.filterwarnings("error:The model is trained without")
def test_nothing_is_asked_for_where_nothing_is_trained(make_model, pixel_values, without):
    model = make_model(CoOpPrompt if without == "terms" else TermsPrompt)
    model.train(without != "training")
    with torch.set_grad_enabled(without != "gradient"):
        if without == "adapter":
            with model.disable_adapter():
                outputs = model(pixel_values=pixel_values.double())
        else:
            outputs = model(pixel_values=pixel_values.double())
    assert outputs.loss_parts is None


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "8", None, True])
def test_what_is_no_weight(value):
    with pytest.raises(ValueError, match="`weight` must be a finite number of 0 or more, got"):
        check_number(value, "weight")


def test_weights():
    assert [check_number(value, "weight") for value in (0, 2, 0.5, torch.tensor(3.0).numpy()[()])] == [0, 2, 0.5, 3]
    with pytest.raises(ValueError, match="`factor` must be a finite number above 0, got 0"):
        check_number(0, "factor", above_zero=True)


def test_a_method_learns_what_the_texts_were_computed_in(make_model, pixel_values):
    model = make_model().float()
    seen = []
    extra_losses = TermsPrompt.extra_losses
    model.prompt_layer.prompt.extra_losses = lambda step: (
        seen.append(step.dtype) or extra_losses(model.prompt_layer.prompt, step)
    )
    model(pixel_values=pixel_values, labels=LABELS)
    with torch.autocast("cpu", torch.bfloat16):
        model(pixel_values=pixel_values, labels=LABELS)
    assert seen == [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("method", METHODS)
def test_a_loop_in_evaluation_mode_is_told_what_it_lacks(method, clip, tokenizer_path):
    """A model that was loaded is in evaluation mode until somebody calls `train`."""
    config = small_config(method, class_names=["cat", "dog"], tokenizer_name_or_path=tokenizer_path)
    model = get_peft_model(clip, config).eval()
    pixels = {"pixel_values": torch.ones(2, 3, 16, 16)}
    features = {"image_embeds": torch.ones(2, 40)}
    images = pixels if config.changes_vision or task_of(method) == "SEMANTIC_SEG" else features
    given = {**as_given(method, images), "labels": labels_as_given(method, torch.tensor([0, 1]), pixels)}
    with torch.no_grad():
        model(**given)
    if METHODS[method].prompt.extra_losses is Prompt.extra_losses:
        model(**given)
    else:
        with pytest.warns(UserWarning, match=f"In evaluation mode the loss lacks what {method} adds in training"):
            model(**given)
    model.train()(**given)
