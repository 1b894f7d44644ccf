"""ProGrad: the numbers of its own code, and what is projected in loops of every kind.

The slow way that the others are held against: CoOp with the same vectors, two gradients, and the formula.
"""

from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
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

from peft_coop import CoOpConfig, ProGradConfig
from peft_coop.methods import METHODS
from peft_coop.methods.base import Step
from peft_coop.methods.prograd import AGREEMENT
from peft_coop.recipes import PROTOCOLS, Recipe

DTYPES = [torch.float32, torch.float64]
LABELS = torch.tensor([0, 1, 2, 0, 1])
CLASS_NAMES = ["cat", "dog", "kite"]
EXACT = {"atol": 1e-12, "rtol": 1e-9}


@pytest.fixture(params=["case0", "case1"])
def case(request):
    return golden_case("prograd", request.param)


@pytest.fixture(params=DTYPES, ids=str)
def golden_prograd(request, case, tokenizer_path):
    settings = case.cases
    template = settings["zero_shot_template"]
    config = ProGradConfig(
        n_ctx=settings["n_ctx"],
        ctx_init=template.removesuffix(" {}.") if settings["ctx_init_flag"] else None,
        prograd_lambda=settings["lambda"],
        prograd_temperature=settings["T"],
        class_names=case.class_names,
        zero_shot_template=template,
        tokenizer_name_or_path=tokenizer_path,
    )
    return golden_start(case, config, request.param)


@pytest.fixture
def make_model(tokenizer_path):
    def make(config_class=ProGradConfig, **settings):
        settings = {"n_ctx": 3, "class_names": CLASS_NAMES, "tokenizer_name_or_path": tokenizer_path, **settings}
        torch.manual_seed(3)
        model = get_peft_model(make_clip(), config_class(**settings)).double().train()
        with torch.no_grad():
            model.prompt_layer.prompt.ctx.mul_(20)
        return model

    return make


def inputs_of(pixel_values, rows=slice(None)) -> dict[str, torch.Tensor]:
    return {"pixel_values": pixel_values[rows].double(), "labels": LABELS[rows]}


def ctx_of(model) -> torch.Tensor:
    return model.prompt_layer.prompt.ctx


def in_conflict(model, pixel_values, **how) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Inputs with labels whose learning goes against the hand-written prompt, and the projected gradient."""
    for seed in range(20):
        labels = torch.randint(3, (len(pixel_values),), generator=torch.Generator().manual_seed(seed))
        inputs = {"pixel_values": pixel_values.double(), "labels": labels}
        gradient, conflict = slowly_projected(model, inputs, **how)
        if conflict:
            return inputs, gradient
    raise AssertionError("no labels are in conflict")


def slowly_projected(model, inputs, strength=1.0, temperature=1.0, loss=F.cross_entropy):
    """The projected gradient by the formula, and whether there is a conflict."""
    with torch.no_grad(), model.disable_adapter():
        written = model(pixel_values=inputs["pixel_values"]).logits
    names = model.class_names
    settings = model.peft_config["default"].to_dict()
    kept = ("n_ctx", "class_token_position", "class_specific_context", "tokenizer_name_or_path")
    plain = get_peft_model(make_clip(), CoOpConfig(class_names=names, **{key: settings[key] for key in kept}))
    plain = plain.double().train()
    with torch.no_grad():
        ctx_of(plain).copy_(ctx_of(model))
    logits = plain(pixel_values=inputs["pixel_values"]).logits
    divergence = F.kl_div(
        F.log_softmax(logits / temperature, -1), F.softmax(written / temperature, -1), reduction="batchmean"
    )
    [general] = torch.autograd.grad(divergence * temperature**2, ctx_of(plain), retain_graph=True)
    [own] = torch.autograd.grad(loss(logits, inputs["labels"]), ctx_of(plain))
    unit = general / general.square().sum().sqrt()
    along = (own * unit).sum()
    return (own - strength * along * unit if along < 0 else own), bool(along < 0)


def test_the_start(golden_prograd, case):
    model = golden_prograd
    outputs = model(**golden_inputs(case, model.dtype))
    torch.testing.assert_close(outputs.logits.float(), case.tensors["logits"], **LOGITS)
    outputs.loss.backward()
    assert_first_gradient(ctx_of(model).grad, case.tensors["grad.ctx"])
    with torch.no_grad(), model.disable_adapter():
        written = model(**golden_inputs(case, model.dtype)).logits
    torch.testing.assert_close(written.float(), case.tensors["zs_logits"], **LOGITS)


def test_the_two_gradients_of_the_start(golden_prograd, case, monkeypatch):
    model, seen = golden_prograd, []
    take = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: seen.append(take(*a, **k)) or seen[-1])
    outputs = model(**golden_inputs(case, model.dtype))
    [[general]] = seen
    assert_first_gradient(general, case.tensors["grad_kl.ctx"])
    model.prompt_layer.prompt.settings.prograd_lambda = 0  # changes nothing in this step any more
    model.zero_grad()
    model(**golden_inputs(case, model.dtype)).loss.backward()
    assert_first_gradient(ctx_of(model).grad, case.tensors["grad_xe.ctx"])
    assert outputs.loss_parts["kl"].item() == pytest.approx(case.tensors["losses_kl"][0].item(), abs=1e-5)


def test_ten_steps(golden_prograd, case, monkeypatch):
    where, conflicts = torch.where, []

    def noting(condition, *values):
        if condition.ndim == 0:  # the one of the projection
            conflicts.append(bool(condition))
        return where(condition, *values)

    monkeypatch.setattr(torch, "where", noting)
    steps = take_steps(golden_prograd, case)
    for noted, name in (("loss", "losses"), ("cross_entropy", "losses"), ("kl", "losses_kl")):
        values = torch.tensor([step[noted] for step in steps])
        torch.testing.assert_close(values, case.tensors[name].float(), **AFTER_STEPS)
    assert conflicts == case.tensors["projected"].bool().tolist()
    assert_end(golden_prograd, case)


@pytest.mark.parametrize("form", [{}, {"class_specific_context": True}, {"class_token_position": "front"}], ids=str)
@pytest.mark.parametrize("settings", [{}, {"prograd_lambda": 0.8}, {"prograd_temperature": 2.0}], ids=str)
def test_the_formula(make_model, pixel_values, form, settings):
    model = make_model(**form, **settings)
    how = {"strength": settings.get("prograd_lambda", 1.0), "temperature": settings.get("prograd_temperature", 1.0)}
    conflicting, _ = in_conflict(model, pixel_values, **how)
    found = set()
    for labels in (conflicting["labels"], LABELS, torch.tensor([1, 1, 1, 1, 1]), torch.tensor([0, 2, 0, 2, 1])):
        inputs = {"pixel_values": pixel_values.double(), "labels": labels}
        expected, conflict = slowly_projected(model, inputs, **how)
        model.zero_grad()
        outputs = model(**inputs)
        assert outputs.loss.item() == pytest.approx(F.cross_entropy(outputs.logits, labels).item(), rel=1e-12)
        outputs.loss.backward()
        torch.testing.assert_close(ctx_of(model).grad, expected, **EXACT)
        found.add(conflict)
    assert True in found


def test_without_strength_it_is_coop(make_model, pixel_values):
    grads = []
    for config_class, settings in ((ProGradConfig, {"prograd_lambda": 0}), (CoOpConfig, {})):
        model = make_model(config_class, **settings)
        model(**inputs_of(pixel_values)).loss.backward()
        grads.append(ctx_of(model).grad)
    torch.testing.assert_close(*grads, **EXACT)


def test_micro_batches_are_projected_each_by_itself(make_model, pixel_values):
    """Under accumulation, with the Trainer's `num_items_in_batch` or a loop's own division."""
    model = make_model()
    batches, expected = zip(
        *[in_conflict(model, pixel_values[rows]) for rows in (slice(0, 3), slice(3, 5))], strict=True
    )
    total = 0.6 * expected[0] + 0.4 * expected[1]
    for batch in batches:
        model(**batch, num_items_in_batch=torch.tensor(5)).loss.backward()
    torch.testing.assert_close(ctx_of(model).grad, total, **EXACT)
    model.zero_grad()
    for batch in batches:
        (model(**batch).loss * len(batch["labels"]) / 5).backward()
    torch.testing.assert_close(ctx_of(model).grad, total, **EXACT)
    labels = torch.cat([batch["labels"] for batch in batches])
    whole, _ = slowly_projected(model, {"pixel_values": pixel_values.double(), "labels": labels})
    assert (whole - total).norm() > 1e-3 * whole.norm()


def test_loss_scaling(make_model, pixel_values):
    model = make_model()
    inputs, expected = in_conflict(model, pixel_values)
    (model(**inputs).loss * 65536).backward()
    torch.testing.assert_close(ctx_of(model).grad / 65536, expected, **EXACT)
    model.zero_grad()
    (model(**inputs).loss * float("inf")).backward()
    assert not ctx_of(model).grad.isfinite().any()  # a scaler sees the overflow


def test_a_loss_outside_the_model(make_model, pixel_values, recwarn):
    """Label smoothing by the loop itself: the gradient of whatever loss is projected."""
    model = make_model()

    def smoothed(logits, labels):
        return F.cross_entropy(logits, labels, label_smoothing=0.2)

    inputs, expected = in_conflict(model, pixel_values, loss=smoothed)
    smoothed(model(pixel_values=inputs["pixel_values"]).logits, inputs["labels"]).backward()
    torch.testing.assert_close(ctx_of(model).grad, expected, **EXACT)
    assert not [each for each in recwarn if "lacks the method's own" in str(each.message)]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_the_trainer(make_model, pixel_values, tmp_path, smoothing):
    """Its own loss with label smoothing, and the model's without; a step of SGD shows the gradient."""
    model = make_model()
    before = ctx_of(model).detach().clone()
    inputs, expected = in_conflict(
        model, pixel_values, loss=lambda *given: F.cross_entropy(*given, label_smoothing=smoothing)
    )
    settings = {"max_steps": 1, "optim": "sgd", "learning_rate": 0.5, "max_grad_norm": 0, "weight_decay": 0}
    settings |= {"per_device_train_batch_size": 5, "label_smoothing_factor": smoothing, "use_cpu": True}
    images = zip(inputs["pixel_values"], inputs["labels"], strict=True)
    data = [{"pixel_values": image, "labels": label} for image, label in images]
    Trainer(model, TrainingArguments(str(tmp_path), **settings), train_dataset=data).train()
    torch.testing.assert_close((before - ctx_of(model).detach()) / 0.5, expected, atol=1e-9, rtol=1e-7)


@pytest.mark.parametrize("memory", ["parts", "checkpointing"])
def test_prompts_that_are_computed_again(make_model, pixel_values, memory):
    model = make_model()
    inputs, expected = in_conflict(model, pixel_values)
    if memory == "parts":
        model.set_prompt_memory(1e-7)
    else:
        text = model.get_base_model().text_model
        for layer in text.encoder.layers:
            layer.gradient_checkpointing = True
            layer._gradient_checkpointing_func = torch.utils.checkpoint.checkpoint
    model(**inputs).loss.backward()
    torch.testing.assert_close(ctx_of(model).grad, expected, **EXACT)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast(make_model, pixel_values, monkeypatch, dtype):
    """What rounding leaves of the two gradients is projected; float16 with a scaled loss, as it is trained."""
    labels = in_conflict(make_model(), pixel_values)[0]["labels"]
    along, general = {}, []
    take = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *a, **k: general.append(take(*a, **k)[0]) or general[-1:])
    for config_class in (ProGradConfig, CoOpConfig):
        model = make_model(config_class).float()
        with torch.autocast("cpu", dtype):
            outputs = model(pixel_values=pixel_values, labels=labels)
        (outputs.loss * 1024).backward()
        gradient = ctx_of(model).grad
        along[config_class] = F.cosine_similarity(gradient.flatten(), general[0].flatten(), dim=0).item()
    assert along[CoOpConfig] < -0.01
    assert abs(along[ProGradConfig]) < 1e-4


def test_nothing_stays_behind(make_model, pixel_values):
    """No hook on the parameter, nothing in the graph's place, and `zero_grad` forgets all."""
    model = make_model()
    inputs, _ = in_conflict(model, pixel_values)
    gradients = []
    for _ in range(2):
        model(**inputs)  # a forward that no backward follows
        model.zero_grad()
        model(**inputs).loss.backward()
        gradients.append(ctx_of(model).grad.clone())
    assert torch.equal(*gradients)
    assert not ctx_of(model)._backward_hooks
    (2 * ctx_of(model)).sum().backward()  # a gradient that does not come through the prompts
    torch.testing.assert_close(ctx_of(model).grad - gradients[0], torch.full_like(gradients[0], 2.0))


@pytest.mark.parametrize("how", ["evaluation", "no_grad", "frozen", "disabled"])
def test_where_nothing_is_learned(make_model, pixel_values, how, monkeypatch):
    model = make_model()
    monkeypatch.setattr(torch.autograd, "grad", lambda *_, **__: pytest.fail("a gradient was asked for"))
    model.train(how != "evaluation")
    ctx_of(model).requires_grad_(how != "frozen")
    disabled = model.disable_adapter() if how == "disabled" else nullcontext()
    told = pytest.warns(UserWarning, match="In evaluation mode") if how == "evaluation" else nullcontext()
    with torch.set_grad_enabled(how != "no_grad"), disabled, told:
        outputs = model(**inputs_of(pixel_values))
    assert (outputs.loss_parts is None) == (how in ("evaluation", "disabled"))


def test_a_lora_beside_it_is_not_projected(make_model, pixel_values):
    """Its gradient is cross-entropy's, and the hand-written prompt is that of the frozen model."""
    inputs, _ = in_conflict(make_model(), pixel_values)
    targets = r"vision_model\..*\.(q_proj|v_proj)"
    gradients = {}
    for config_class in (ProGradConfig, CoOpConfig):
        model = make_model(config_class)
        torch.manual_seed(5)
        model.add_adapter("lora", LoraConfig(target_modules=targets, init_lora_weights=False))
        model.double().train()
        model(**inputs).loss.backward()
        gradients[config_class] = {name: each.grad for name, each in model.named_parameters() if each.requires_grad}
    ours, theirs = gradients.values()
    loras = [name for name in ours if "lora" in name]
    assert loras
    for name in loras:
        torch.testing.assert_close(ours[name], theirs[name], **EXACT)
    [ctx] = [name for name in ours if name.endswith("ctx")]
    assert (ours[ctx] - theirs[ctx]).norm() > 1e-6 * theirs[ctx].norm()


def test_several_adapters(make_model, pixel_values, tokenizer_path):
    """Only the active one is projected, each with its own strength."""
    model = make_model()
    inputs, expected = in_conflict(model, pixel_values)
    more = ProGradConfig(n_ctx=3, class_names=CLASS_NAMES, prograd_lambda=0, tokenizer_name_or_path=tokenizer_path)
    model.add_adapter("free", more)
    model.double()
    layer = model.prompt_layer
    with torch.no_grad():
        layer.prompt_of("free").ctx.copy_(layer.prompt_of("default").ctx)
    model(**inputs).loss.backward()
    model.set_adapter("free")
    model(**inputs).loss.backward()
    torch.testing.assert_close(layer.prompt_of("default").ctx.grad, expected, **EXACT)
    assert (layer.prompt_of("free").ctx.grad - expected).norm() > 1e-6 * expected.norm()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_start_at_the_hand_written_prompt(make_model, pixel_values, dtype):
    """The divergence has no gradient but rounding there, and nothing is projected."""
    settings = {"n_ctx": None, "ctx_init": "a photo of a"}
    gradients = []
    for config_class in (ProGradConfig, CoOpConfig):
        model = make_model(config_class, **settings)
        with torch.no_grad():
            ctx_of(model).div_(20)
        model = model.to(dtype)
        inputs = inputs_of(pixel_values) | {"pixel_values": pixel_values.to(dtype)}
        model(**inputs).loss.backward()
        gradients.append(ctx_of(model).grad)
    torch.testing.assert_close(*gradients, atol=1e-6 if dtype == torch.float32 else 1e-12, rtol=0)


@pytest.mark.parametrize("factor, is_projected", [(0.5, False), (2.0, True)])
@pytest.mark.parametrize("dtype, threshold", [(torch.float32, AGREEMENT), (torch.bfloat16, 2**-7)], ids=str)
def test_how_near_is_agreement(make_model, dtype, threshold, factor, is_projected):
    """Two classes, and logits whose probabilities are `factor` times the threshold from the hand-written prompt's."""
    prompt = make_model().prompt_layer.prompt
    vectors = prompt.vectors()
    logits = (vectors.sum() - vectors.detach().sum()) * torch.tensor([[1.0, 0.0]]).double()
    logits = logits + torch.tensor([[4 * factor * threshold, 0.0]]).double()
    step = Step(logits, None, None, None, vectors, dtype, None, None, None, None)
    object.__setattr__(step, "zero_shot_logits", lambda: torch.zeros(1, 2).double())
    prompt.extra_losses(step)
    (-logits[0, 0]).backward()  # away from the hand-written prompt
    assert bool(prompt.ctx.grad.norm() < 1e-9) == is_projected


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # torch's, on the way
def test_a_training_step_that_cannot_be_compiled(make_model):
    """Without its towers, which would be traced anew for each call around what breaks the graph."""
    prompt = make_model().prompt_layer.prompt.train()

    def terms_of_the_loss():
        vectors = prompt.vectors()
        logits = vectors.sum() * torch.tensor([[1.0, 0.0]]).double()
        step = Step(logits, None, None, None, vectors, logits.dtype, None, None, None, None)
        object.__setattr__(step, "zero_shot_logits", lambda: torch.zeros(1, 2).double())
        return prompt.extra_losses(step)["kl"].value

    assert terms_of_the_loss().requires_grad
    torch._dynamo.reset()
    with pytest.raises(RuntimeError, match=r"within the forward pass, .* compiled .* train it without"):
        torch.compile(terms_of_the_loss, backend="aot_eager")()


@pytest.mark.parametrize("n_ctx, n_zero", [(16, 12), (5, 1), (4, 0), (None, 0)])
def test_words_are_the_last_vectors(make_model, clip, tokenizer, n_ctx, n_zero):
    ctx = ctx_of(make_model(n_ctx=n_ctx, ctx_init="a photo of a")).detach().float() / 20
    words = clip.text_model.embeddings.token_embedding(torch.tensor(tokenizer("a photo of a")["input_ids"][1:-1]))
    assert not ctx[:n_zero].any()
    torch.testing.assert_close(ctx[n_zero:], words.detach())
    assert len(ctx) == n_zero + 4
    specific = make_model(n_ctx=n_ctx, ctx_init="a photo of a", class_specific_context=True)
    assert ctx_of(specific).shape == (3, n_zero + 4, 24)
    torch.testing.assert_close(ctx_of(specific)[2].float() / 20, ctx)


def test_too_few_vectors_for_the_words(make_model):
    with pytest.raises(ValueError, match=r"`n_ctx=3` is too few for `ctx_init='a photo of a'`, which has 4 tokens"):
        make_model(n_ctx=3, ctx_init="a photo of a")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"prograd_lambda": -0.1}, "`prograd_lambda` must be a finite number of 0 or more, got -0.1"),
        ({"prograd_temperature": 0}, "`prograd_temperature` must be a finite number above 0, got 0"),
    ],
)
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        ProGradConfig(**settings)


def test_saved_and_loaded(make_model, tmp_path, pixel_values):
    model = make_model(prograd_lambda=0.8).eval()
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_clip().double(), tmp_path)
    assert type(loaded.peft_config["default"]) is ProGradConfig
    assert loaded.peft_config["default"].prograd_lambda == 0.8
    expected = model(pixel_values=pixel_values.double()).logits
    torch.testing.assert_close(loaded.double()(pixel_values=pixel_values.double()).logits, expected)


@pytest.mark.parametrize("protocol", [each for each in PROTOCOLS if each != "composition"])
def test_the_papers_recipe(protocol):
    method = METHODS["prograd"]
    assert method.recipe(4, None, protocol) == Recipe(100, 32, 0.002)
    assert method.recipe(4, "imagenet", protocol) == Recipe(50, 32, 0.002)
    assert method.fields(protocol) == {"n_ctx": 16, "ctx_init": "a photo of a"}
