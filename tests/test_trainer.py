"""Training with transformers' Trainer, with nothing special set."""

import os
import shutil
import sys
import sysconfig
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_clip
from datasets import Dataset
from method_kinds import COVERING, IN_PARTS, small_config, traits
from peft import get_peft_model
from task_inputs import as_given, labels_as_given, task_of
from tiny_families import draw_weights
from torch._dynamo.utils import counters
from transformers import CLIPModel, Trainer, TrainingArguments

from peft_coop import CoCoOpConfig
from peft_coop.methods import METHODS

CLASS_NAMES = ["cat", "dog", "kite (bird of prey)"]

# transformers renamed it in 5.x, and warns of the old name.
CHECKPOINTING = "activation" if hasattr(TrainingArguments, "activation_checkpointing") else "gradient"

# What torch.compile builds its kernels with by default.
CXX = os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")
PYTHON_H = Path(sysconfig.get_path("include"), "Python.h")

every_method = pytest.mark.parametrize("method", METHODS)
every_sum_of_parts = pytest.mark.parametrize("method", [key for key in COVERING if key not in IN_PARTS])
every_kind_of_method = pytest.mark.parametrize("method", COVERING)
# ProGrad takes a gradient in the middle of a training step.
COMPILED = [key for key in COVERING if key not in IN_PARTS]
# Whose backward pass is traced, too: of the first, and of the one that does most beside it.
WITH_BACKWARD = (COMPILED[0], max(COMPILED, key=lambda key: len(traits(key))))


@pytest.fixture
def make_model(tokenizer_path):
    def make(method: str = "coop", seed: int = 0, **text):
        config = small_config(method, class_names=CLASS_NAMES, tokenizer_name_or_path=tokenizer_path)
        clip = make_clip(**text)
        if config.changes_vision:  # with weights as small as those, prompts hide the image
            torch.manual_seed(0)
            draw_weights(clip)
        torch.manual_seed(seed)
        return get_peft_model(clip, config)

    return make


def make_images(count: int, seed: int = 0, method: str = "coop") -> tuple[torch.Tensor, torch.Tensor]:
    """Noise around one picture per class: `pixel_values` `[count, 3, 16, 16]` and `labels` `[count]`.

    In the form that the method's task has them.
    """
    pictures = torch.randn(len(CLASS_NAMES), 3, 16, 16, generator=torch.Generator().manual_seed(7))
    labels = torch.arange(count) % len(CLASS_NAMES)
    noise = torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    images = {"pixel_values": pictures[labels] + 0.3 * noise}
    return as_given(method, images)["pixel_values"], labels_as_given(method, labels, images)


def make_dataset(
    count: int, label_column: str = "labels", seed: int = 0, embed_with=None, method: str = "coop"
) -> Dataset:
    pixel_values, labels = make_images(count, seed, method)
    inputs = {"pixel_values": pixel_values.numpy()}
    if embed_with is not None:
        with torch.no_grad():
            inputs = {"image_embeds": embed_with.get_image_features(pixel_values).pooler_output.numpy()}
    return Dataset.from_dict({**inputs, label_column: labels.tolist()}).with_format("torch")


def arguments(folder, **settings) -> TrainingArguments:
    settings = {"per_device_train_batch_size": 4, "use_cpu": True, "disable_tqdm": True, **settings}
    return TrainingArguments(str(folder), **settings)


def weights(model, learned: bool) -> dict[str, torch.Tensor]:
    """Copies of the adapters' parameters, or of all others."""
    return {
        name: parameter.detach().clone()
        for name, parameter in model.named_parameters()
        if ("learned_prompts" in name) == learned
    }


def gradients(model) -> torch.Tensor:
    """All gradients in one vector; every learnable part must have one."""
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters() if parameter.requires_grad])


def assert_same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert torch.equal(value, right[name]), name


def relative_difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return ((actual - expected).norm() / expected.norm()).item()


def accuracy(eval_prediction) -> dict[str, float]:
    """Fails where the predictions are not one array of logits."""
    assert isinstance(eval_prediction.predictions, np.ndarray)
    assert eval_prediction.predictions.shape == (len(eval_prediction.label_ids), len(CLASS_NAMES))
    return {"accuracy": float((eval_prediction.predictions.argmax(-1) == eval_prediction.label_ids).mean())}


@pytest.mark.parametrize(
    ("method", "label_column", "precomputed"),
    [("coop", "labels", False), ("coop", "label", True), ("cocoop", "label", False), ("cocoop", "labels", True)],
)
def test_default_arguments_train_and_evaluate(make_model, tmp_path, method, label_column, precomputed):
    model = make_model(method)
    embed_with = model if precomputed else None
    train, test = (make_dataset(count, label_column, count, embed_with) for count in (18, 11))
    frozen, learned = weights(model, learned=False), weights(model, learned=True)
    trainer = Trainer(
        model, TrainingArguments(str(tmp_path)), train_dataset=train, eval_dataset=test, compute_metrics=accuracy
    )
    trainer.train()
    metrics = trainer.evaluate()

    assert_same(weights(model, learned=False), frozen)
    for name, value in weights(model, learned=True).items():
        assert not torch.equal(value, learned[name]), name
    inputs = {name: test[name][:].to(model.device) for name in test.column_names}
    labels = inputs.pop(label_column)
    with torch.no_grad():
        logits = model(**inputs).logits
    assert metrics["eval_loss"] == pytest.approx(torch.nn.functional.cross_entropy(logits, labels).item(), rel=1e-5)
    assert metrics["eval_accuracy"] == pytest.approx((logits.argmax(-1) == labels).float().mean().item())


@pytest.mark.parametrize("precomputed", [False, True], ids=["pixels", "features"])
def test_metrics_may_ask_for_the_inputs(make_model, tmp_path, precomputed):
    model = make_model()
    test = make_dataset(7, embed_with=model if precomputed else None)
    seen = []

    def count_inputs(eval_prediction):
        seen.append(eval_prediction.inputs)
        return {"images": len(eval_prediction.inputs)}

    settings = {"include_for_metrics": ["inputs"], "include_num_input_tokens_seen": True, "max_steps": 1}
    trainer = Trainer(
        model, arguments(tmp_path, **settings), train_dataset=test, eval_dataset=test, compute_metrics=count_inputs
    )
    trainer.train()
    assert trainer.evaluate()["eval_images"] == 7
    column = "image_embeds" if precomputed else "pixel_values"
    assert np.array_equal(seen[0], test[column][:].numpy())
    assert trainer.state.num_input_tokens_seen == 4 * test[column][0].numel()


def test_the_main_input_is_the_base_models_own_without_a_prompt(make_model):
    model = make_model()
    assert model.main_input_name == model.get_base_model().main_input_name == "pixel_values"
    model(image_embeds=torch.randn(2, 40))
    assert model.main_input_name == "image_embeds"
    model.delete_adapter("default")
    assert model.main_input_name == CLIPModel.main_input_name == "input_ids"
    clip = make_model().unload()
    assert clip.main_input_name == "input_ids"
    assert "_images_given_as" not in vars(clip)


@every_method
def test_loss_falls(make_model, tmp_path, method):
    settings = {"learning_rate": 0.02, "num_train_epochs": 10, "logging_strategy": "epoch"}
    trainer = Trainer(
        make_model(method), arguments(tmp_path, **settings), train_dataset=make_dataset(24, method=method)
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(losses) == 10
    assert losses[-1] < 0.8 * losses[0]


@pytest.mark.parametrize("adapter", ["default", "second"])
def test_best_checkpoint(make_model, tmp_path, tokenizer_path, adapter):
    model = make_model()
    if adapter == "second":
        model.add_adapter("second", CoCoOpConfig(class_names=CLASS_NAMES, tokenizer_name_or_path=tokenizer_path))
        model.set_adapter("second")
    scores, contexts = iter([1.0, 3.0, 2.0]), []

    def score(eval_prediction):
        contexts.append(weights(model, learned=True))
        return {"score": next(scores)}

    settings = {"eval_strategy": "epoch", "save_strategy": "epoch", "save_total_limit": 1, "num_train_epochs": 3}
    settings |= {"load_best_model_at_end": True, "metric_for_best_model": "score", "learning_rate": 0.01}
    data = make_dataset(8)
    trainer = Trainer(
        model, arguments(tmp_path, **settings), train_dataset=data, eval_dataset=data, compute_metrics=score
    )
    trainer.train()

    assert not torch.equal(
        torch.cat([*map(torch.flatten, contexts[1].values())]), torch.cat([*map(torch.flatten, contexts[2].values())])
    )
    assert_same(weights(model, learned=True), contexts[1])
    assert trainer.state.best_metric == 3.0
    assert model.active_adapters == [adapter]
    assert all(
        parameter.requires_grad == (f".{adapter}" in name)
        for name, parameter in model.named_parameters()
        if "learned_prompts" in name
    )


def test_checkpoint_holds_the_adapter_only(make_model, tmp_path):
    Trainer(make_model(), arguments(tmp_path, max_steps=1, save_steps=1), train_dataset=make_dataset(4)).train()
    sizes = {entry.name: entry.stat().st_size for entry in os.scandir(tmp_path / "checkpoint-1")}
    assert {"adapter_config.json", "adapter_model.safetensors"} <= sizes.keys()
    assert sum(sizes.values()) < 60_000
    assert sizes["adapter_model.safetensors"] < 1_000  # 4 x 24 numbers


@every_method
def test_resume_gives_the_uninterrupted_run(make_model, tmp_path, method):
    settings = {"max_steps": 6, "save_steps": 3, "learning_rate": 0.01}
    data = make_dataset(16, method=method)
    whole = make_model(method)
    Trainer(whole, arguments(tmp_path, **settings), train_dataset=data).train()
    resumed = make_model(method, seed=5)
    trainer = Trainer(resumed, arguments(tmp_path, **settings), train_dataset=data)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
    assert trainer.state.global_step == 6
    assert_same(weights(resumed, learned=True), weights(whole, learned=True))


@every_sum_of_parts
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.filterwarnings("ignore:The model is trained without `labels`")  # with smoothing, to a method with terms
def test_gradient_accumulation_in_the_trainer(make_model, tmp_path, method, smoothing):
    """Seven images in one batch, in 4 + 3 and in 2 + 2 + 2 + 1; a step of SGD shows the gradient."""
    if smoothing and task_of(method) == "SEMANTIC_SEG":
        pytest.skip("the Trainer smooths the labels of whole images only")
    steps = {}
    for batches in (1, 2, 4):
        model = make_model(method).double()
        before = weights(model, learned=True)
        settings = {"optim": "sgd", "learning_rate": 1e-3, "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
        settings |= {"label_smoothing_factor": smoothing, "max_steps": 1, "gradient_accumulation_steps": batches}
        settings["per_device_train_batch_size"] = -(-7 // batches)
        Trainer(model, arguments(tmp_path, **settings), train_dataset=make_dataset(7, method=method)).train()
        after = weights(model, learned=True)
        steps[batches] = torch.cat([(after[name] - before[name]).flatten() for name in before]) / 1e-3
    assert steps[1].norm() > 0.1
    assert relative_difference(steps[2], steps[1]) < 1e-9
    assert relative_difference(steps[4], steps[1]) < 1e-9


@every_sum_of_parts
@pytest.mark.parametrize("num_items", [7, torch.tensor(7), torch.tensor([[7]])])
def test_num_items_in_batch(make_model, method, num_items):
    model = make_model(method).double().train()
    pixel_values, labels = make_images(7, method=method)
    num_items = num_items * labels[0].numel()  # the Trainer counts labels
    whole = model(pixel_values=pixel_values, labels=labels).loss
    whole.backward()
    expected = gradients(model)
    model.zero_grad()
    losses = [
        model(pixel_values=pixel_values[part], labels=labels[part], num_items_in_batch=num_items).loss
        for part in (slice(0, 4), slice(4, 6), slice(6, 7))
    ]
    sum(losses).sum().backward()
    assert sum(losses).item() == pytest.approx(whole.item(), rel=1e-9)
    assert relative_difference(gradients(model), expected) < 1e-9


def test_num_items_in_batch_without_labels(make_model):
    pixel_values, _ = make_images(2)
    output = make_model()(pixel_values=pixel_values, num_items_in_batch=torch.tensor(2))
    assert output.loss is None
    assert output.logits.shape == (2, len(CLASS_NAMES))


@every_method
def test_bf16(make_model, tmp_path, method):
    model = make_model(method)
    data = make_dataset(8, method=method)
    pixel_values, labels = make_images(8, method=method)
    with torch.no_grad():
        expected = model(pixel_values=pixel_values, labels=labels)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(pixel_values=pixel_values, labels=labels)
    assert output.logits.dtype == output.loss.dtype == torch.float32
    torch.testing.assert_close(output.logits, expected.logits, atol=0.6, rtol=0)

    settings = {"bf16": True, "learning_rate": 0.02, "num_train_epochs": 8}
    trainer = Trainer(model, arguments(tmp_path, **settings), train_dataset=data, eval_dataset=data)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.9 * before
    assert {value.dtype for value in weights(model, learned=True).values()} == {torch.float32}


def test_logits_keep_float32_under_autocast(make_model):
    """Rounded to bf16, logits near 10 would lie on a grid of 1/16."""
    model = make_model()
    image_embeds = torch.nn.functional.normalize(torch.randn(64, 40, generator=torch.Generator().manual_seed(0)))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(image_embeds=image_embeds)
    expected = model.logit_scale.exp() * output.image_embeds @ output.text_embeds.t()
    torch.testing.assert_close(output.logits, expected, atol=1e-4, rtol=0)
    assert not torch.equal(output.logits, output.logits.bfloat16().float())


@every_kind_of_method
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing(make_model, tmp_path, method, use_reentrant):
    model = make_model(method).double()
    pixel_values, labels = make_images(4, method=method)
    model.train()
    model(pixel_values=pixel_values, labels=labels).loss.backward()
    expected = gradients(model)

    model.zero_grad()
    calls = {"text": 0, "vision": 0}

    def count(tower, layer, args, kwargs):
        # Hand-written texts, which a term of the loss may compare with, need no gradient.
        hidden = args[0] if args else kwargs["hidden_states"]
        calls[tower] += hidden.requires_grad or tower == "vision"

    for tower in calls:
        layer = model.get_submodule(f"base_model.model.{tower}_model.encoder.layers.0.self_attn")
        layer.register_forward_pre_hook(partial(count, tower), with_kwargs=True)
    getattr(model, f"{CHECKPOINTING}_checkpointing_enable")({"use_reentrant": use_reentrant})
    output = model(pixel_values=pixel_values, labels=labels)
    prompt = model.prompt_layer.prompt
    learns_vision, learns_text = prompt.settings.changes_vision, prompt.changes_text
    if "image_embeds" in output:  # else the head learns of what the vision tower gives
        assert output.image_embeds.requires_grad == learns_vision
    in_forward = dict(calls)
    passes = in_forward["text"] // (2 if method in IN_PARTS else 1)  # which ask for a gradient in the forward pass
    assert (passes > 0) == learns_text
    output.loss.backward()
    assert relative_difference(gradients(model), expected) < 1e-9
    # Of a tower with prompts all is computed again, for each gradient that is asked for; of one without nothing.
    assert calls["text"] == in_forward["text"] + passes
    assert calls["vision"] == in_forward["vision"] + learns_vision
    assert in_forward["vision"] > 0


@every_kind_of_method
@pytest.mark.parametrize("use_reentrant", [True, False])
def test_gradient_checkpointing_in_the_trainer(make_model, tmp_path, method, use_reentrant):
    checkpointing = {f"{CHECKPOINTING}_checkpointing": True}
    checkpointing[f"{CHECKPOINTING}_checkpointing_kwargs"] = {"use_reentrant": use_reentrant}
    learned = []
    for settings in ({}, checkpointing):
        model = make_model(method).double()
        settings |= {"max_steps": 2, "optim": "sgd", "learning_rate": 0.1}
        Trainer(model, arguments(tmp_path, **settings), train_dataset=make_dataset(8, method=method)).train()
        learned.append(weights(model, learned=True))
    for name, value in learned[0].items():
        torch.testing.assert_close(learned[1][name], value, atol=1e-9, rtol=0)


def least_layers(method):
    """The fewest layers of a text tower that the method can have."""
    return 2 if METHODS[method].prompt.has_class_vectors else 1


def make_inputs(model, method) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Four images and their labels; as features where a prompt leaves the vision tower alone, but for the first."""
    pixel_values, labels = make_images(4, method=method)
    changes_vision = model.prompt_layer.prompt.settings.changes_vision
    if method == COMPILED[0] or changes_vision or task_of(method) != "IMAGE_CLS":
        return {"pixel_values": pixel_values}, labels
    with torch.no_grad():
        return {"image_embeds": model.get_image_features(pixel_values.double()).pooler_output}, labels


@pytest.mark.parametrize("method", COMPILED)
def test_compiled_training_step(make_model, method):
    """One graph without a break, and none added by later steps."""
    model = make_model(method, num_hidden_layers=least_layers(method)).double().train()
    images, labels = make_inputs(model, method)
    model(**images, labels=labels).loss.backward()
    expected = gradients(model)
    torch._dynamo.reset()
    counters.clear()
    backend = "aot_eager" if method in WITH_BACKWARD else "eager"
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    for _ in range(3):
        model.zero_grad()
        compiled(**images, labels=labels, num_items_in_batch=torch.tensor(labels.numel())).loss.backward()
    assert relative_difference(gradients(model), expected) < 1e-9
    assert counters["stats"]["unique_graphs"] == 1


@every_kind_of_method
def test_compiled_evaluation(make_model, method):
    """One graph without a break, the same logits, and none added by later batches."""
    model = make_model(method, num_hidden_layers=least_layers(method)).double().eval()
    images, _ = make_inputs(model, method)
    with torch.no_grad():
        expected = model(**images).logits
        torch._dynamo.reset()
        counters.clear()
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        for _ in range(3):
            logits = compiled(**images).logits
    torch.testing.assert_close(logits, expected, atol=1e-9, rtol=0)
    assert counters["stats"]["unique_graphs"] == 1


def compiled_and_eager_losses(make_model, folder, backend: str, train, test=None, **text) -> list[list[float]]:
    losses = []
    for settings in ({}, {"torch_compile": True, "torch_compile_backend": backend}):
        torch._dynamo.reset()
        settings |= {"max_steps": 3, "logging_steps": 1, "learning_rate": 0.01}
        model = make_model(**text).double()
        trainer = Trainer(model, arguments(folder, **settings), train_dataset=train, eval_dataset=test)
        trainer.train()
        losses.append([entry["loss"] for entry in trainer.state.log_history if "loss" in entry])
        if test is not None:
            losses[-1].append(trainer.evaluate()["eval_loss"])
    return losses


def test_torch_compile_in_the_trainer(make_model, tmp_path):
    data = {"train": make_dataset(12), "test": make_dataset(6)}
    eager, compiled = compiled_and_eager_losses(make_model, tmp_path, "eager", **data, num_hidden_layers=1)
    assert len(eager) == 4
    assert compiled == pytest.approx(eager, rel=1e-9)


@pytest.mark.skipif(not shutil.which(CXX), reason=f"torch.compile finds no {CXX}")
@pytest.mark.skipif(not PYTHON_H.is_file(), reason="torch.compile needs Python's headers")
def test_inductor_in_the_trainer(make_model, tmp_path):
    """Every kernel takes a second to compile: so one layer is enough, and images as features."""
    train = make_dataset(12, embed_with=make_model())
    with torch._inductor.config.patch(compile_threads=1):
        eager, compiled = compiled_and_eager_losses(make_model, tmp_path, "inductor", train, num_hidden_layers=1)
    assert len(eager) == 3
    assert compiled == pytest.approx(eager, rel=1e-9)
