"""KgCoOp: the numbers of its own code, and when its term of the loss is there."""

import pytest
import torch
from conftest import make_clip
from golden_cases import (
    AFTER_STEPS,
    LOGITS,
    assert_end,
    assert_first_gradient,
    golden_case,
    golden_inputs,
    golden_start,
    take_steps,
)
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Trainer, TrainingArguments

from peft_coop import KgCoOpConfig
from peft_coop.methods import METHODS
from peft_coop.recipes import PROTOCOLS, Recipe
from peft_coop.towers.tree_tower import TreeTower

DTYPES = [torch.float32, torch.float64]
LABELS = torch.tensor([0, 1, 2, 0, 1])
CLASS_NAMES = ["cat", "dog", "kite"]


@pytest.fixture(params=["case0", "case1"])
def case(request):
    return golden_case("kgcoop", request.param)


@pytest.fixture(params=DTYPES, ids=str)
def model(request, case, tokenizer_path):
    from_words = case.cases["ctx_init_flag"]
    config = KgCoOpConfig(
        n_ctx=None if from_words else case.cases["n_ctx"],
        ctx_init="a photo of a" if from_words else None,
        kg_weight=case.cases["w"],
        class_names=case.class_names,
        zero_shot_template=case.cases["kg_template"],
        tokenizer_name_or_path=tokenizer_path,
    )
    return golden_start(case, config, request.param)


@pytest.fixture
def make_model(tokenizer_path):
    def make(**settings):
        torch.manual_seed(0)
        settings = {"class_names": CLASS_NAMES, "tokenizer_name_or_path": tokenizer_path, **settings}
        model = get_peft_model(make_clip(), KgCoOpConfig(**settings)).double()
        with torch.no_grad():
            model.prompt_layer.prompt.ctx.add_(torch.randn_like(model.prompt_layer.prompt.ctx), alpha=0.1)
        return model.train()

    return make


def test_the_start(model, case):
    outputs = model(**golden_inputs(case, model.dtype))
    torch.testing.assert_close(outputs.logits.float(), case.tensors["logits"], **LOGITS)
    assert outputs.loss_parts["kg"].item() == pytest.approx(case.tensors["kg_score"].item(), abs=1e-6)
    outputs.loss.backward()
    assert_first_gradient(model.prompt_layer.prompt.ctx.grad, case.tensors["grad.ctx"])
    with torch.no_grad(), model.disable_adapter():
        teacher = model(**golden_inputs(case, model.dtype)).text_embeds
    torch.testing.assert_close(teacher.float(), case.tensors["kg_text_features"], atol=1e-6, rtol=0)


def test_ten_steps(model, case):
    losses = [step["loss"] for step in take_steps(model, case)]
    torch.testing.assert_close(torch.tensor(losses), case.tensors["losses"].float(), **AFTER_STEPS)
    assert_end(model, case)


def test_the_loss(make_model, pixel_values):
    """Cross-entropy and the weighted distance, computed here from the texts' features alone."""
    model = make_model(kg_weight=3, zero_shot_template="a drawing of a {}.")
    inputs = {"pixel_values": pixel_values.double(), "labels": LABELS}
    outputs = model(**inputs)
    with torch.no_grad(), model.disable_adapter():
        teacher = model(**inputs).text_embeds
    distance = 1 - torch.cosine_similarity(outputs.text_embeds, teacher).mean()
    cross_entropy = torch.nn.functional.cross_entropy(outputs.logits, LABELS)
    assert outputs.loss.item() == pytest.approx((cross_entropy + 3 * distance).item(), rel=1e-9)
    assert {key: part.item() for key, part in outputs.loss_parts.items()} == pytest.approx(
        {"cross_entropy": cross_entropy.item(), "kg": distance.item()}, rel=1e-9
    )
    assert distance > 1e-3
    with torch.no_grad():
        assert model.eval()(**inputs).loss.item() == pytest.approx(cross_entropy.item(), rel=1e-9)


def test_with_weight_0_it_is_coop(make_model, pixel_values):
    model = make_model(kg_weight=0)
    outputs = model(pixel_values=pixel_values.double(), labels=LABELS)
    assert outputs.loss.item() == pytest.approx(outputs.loss_parts["cross_entropy"].item(), rel=1e-12)
    assert outputs.loss_parts["kg"] > 1e-3


def test_the_teacher_is_computed_once_for_a_list_of_classes(make_model, pixel_values, monkeypatch):
    encode, without_vectors = TreeTower.encode, []

    def count(self, prompts, vectors=None, *more):
        without_vectors.append(vectors is None)
        return encode(self, prompts, vectors, *more)

    monkeypatch.setattr(TreeTower, "encode", count)
    model = make_model()
    inputs = {"pixel_values": pixel_values.double(), "labels": LABELS}
    for _ in range(3):
        model(**inputs).loss.backward()
    assert sum(without_vectors) == 1
    before = model(**inputs).loss_parts["kg"]
    model.set_classes(["rose", "tulip", "lily"])
    assert model(**inputs).loss_parts["kg"] != before
    assert sum(without_vectors) == 2


def test_the_teacher_knows_no_lora(make_model, pixel_values):
    """The frozen CLIP is the one before any adapter, and a LoRA on the text tower gets the term's gradient."""
    model = make_model()
    inputs = {"pixel_values": pixel_values.double(), "labels": LABELS}
    with torch.no_grad(), model.disable_adapter():
        teacher = model(**inputs).text_embeds
    model.add_adapter("lora", LoraConfig(target_modules=r"text_model\..*\.(q_proj|v_proj)", init_lora_weights=False))
    model.double()
    outputs = model(**inputs)
    expected = 1 - (outputs.text_embeds * teacher).sum(-1).mean()
    assert outputs.loss_parts["kg"].item() == pytest.approx(expected.item(), rel=1e-9)
    outputs.loss.backward()
    assert all(weight.grad.norm() > 0 for name, weight in model.named_parameters() if "lora_B" in name)


def test_saved_and_loaded(make_model, tmp_path, pixel_values):
    model = make_model(kg_weight=4).eval()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_clip().double(), tmp_path)
    assert type(loaded.peft_config["default"]) is KgCoOpConfig
    assert loaded.peft_config["default"].kg_weight == 4
    expected = model(pixel_values=pixel_values.double()).logits
    torch.testing.assert_close(loaded.double()(pixel_values=pixel_values.double()).logits, expected)
    assert "KgCoOp" in (tmp_path / "README.md").read_text()
    assert "kg_weight" in (tmp_path / "README.md").read_text()


def test_label_smoothing_leaves_the_term_out_with_a_warning(make_model, tmp_path, pixel_values):
    labelled = zip(pixel_values, LABELS, strict=True)
    data = [{"pixel_values": image, "labels": label} for image, label in labelled]
    arguments = TrainingArguments(
        str(tmp_path), label_smoothing_factor=0.1, use_cpu=True, max_steps=1, report_to="none"
    )
    trainer = Trainer(make_model().float(), arguments, train_dataset=data)
    with pytest.warns(UserWarning, match="lacks the method's own kg: give it `labels`"):
        trainer.train()


@pytest.mark.parametrize("weight", [-1.0, float("nan"), "8", None])
def test_what_is_no_weight(weight):
    with pytest.raises(ValueError, match="`kg_weight` must be a finite number of 0 or more, got"):
        KgCoOpConfig(kg_weight=weight)


def test_a_longer_context_needs_another_start(make_model):
    with pytest.raises(ValueError, match="`n_ctx=16` contradicts `ctx_init='a photo of a'`"):
        make_model(n_ctx=16)
    assert make_model(n_ctx=16, ctx_init=None).prompt_layer.prompt.ctx.shape == (16, 24)


@pytest.mark.parametrize("protocol", [each for each in PROTOCOLS if each != "composition"])
def test_the_papers_recipe(protocol):
    method = METHODS["kgcoop"]
    assert method.recipe(16, "imagenet", protocol) == Recipe(100, 128, 0.002)
    assert method.fields(protocol) == {"n_ctx": None, "ctx_init": "a photo of a"}


def test_a_teacher_that_is_trained_is_told(make_model, pixel_values):
    model = make_model().train()
    model.get_base_model().text_projection.requires_grad_(True)
    with pytest.warns(UserWarning, match=r"compares with the frozen model, and 'text_projection\.weight' of the base"):
        model(pixel_values=pixel_values, labels=torch.zeros(len(pixel_values), dtype=torch.long))
