"""DenseCLIP as an adapter: saved, loaded, trained, beside others, and over images of any size."""

import re
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import make_clip
from datasets import Dataset
from dense_models import NAMES, STILL, evaluated, make_config, make_model, perturb, some_images, some_labels
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from transformers import CLIPImageProcessor, SegformerImageProcessor, Trainer, TrainingArguments, pipeline

import peft_coop
from peft_coop import (
    METHODS,
    AutoPeftModelForSemanticSegmentation,
    CoOpConfig,
    PeftModelForSemanticSegmentation,
    slide_inference,
)

SAME = {"atol": 1e-9, "rtol": 1e-9}
PREFIX = "base_model.model.text_model.embeddings.dense_clip_"
WITH_VISION = {"train_vision": True, **STILL}


@pytest.fixture
def config(tokenizer_path):
    return partial(make_config, tokenizer_path)


@pytest.fixture
def make(tokenizer_path):
    return partial(make_model, tokenizer_path)


@pytest.fixture
def images() -> torch.Tensor:
    return some_images()


@pytest.fixture
def labels() -> torch.Tensor:
    return some_labels()


def train(model, images, labels, rate=0.1, steps=2):
    optimizer = torch.optim.SGD([weight for weight in model.parameters() if weight.requires_grad], lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        model.train()(pixel_values=images, labels=labels).loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("head", ["semantic_fpn", "upernet", "segformer", "none"])
def test_saved_and_loaded(make, images, labels, tmp_path, head):
    """Batch norms' statistics too, which training has moved."""
    model = train(make(head=head), images, labels)
    assert type(model) is PeftModelForSemanticSegmentation
    expected = evaluated(model, images).logits
    model.save_pretrained(tmp_path)
    keys = load_file(tmp_path / "adapter_model.safetensors").keys()
    parts = {key.removeprefix(PREFIX).split(".")[0] for key in keys}
    more = {"semantic_fpn": {"pyramid", "neck", "head"}, "none": set()}.get(head, {"pyramid", "head"})
    assert parts == {"ctx", "gamma", "decoder"} | more
    assert {key for key in keys if not key.startswith(PREFIX)} == set()
    if head != "none":
        assert f"{PREFIX}pyramid.fpn1.2.running_mean" in keys
    loaded = PeftModel.from_pretrained(make_clip().double(), tmp_path)
    assert loaded.class_names == NAMES
    torch.testing.assert_close(evaluated(loaded, images).logits, expected, **SAME)
    assert not any(weight.requires_grad for weight in loaded.parameters())
    # An adapter that was loaded to be used counts nothing, also where its model is put into training mode.
    with torch.no_grad():
        loaded.train()(pixel_values=images)
    torch.testing.assert_close(evaluated(loaded, images).logits, expected, **SAME)


def test_a_trained_vision_tower_is_saved_with_it(make, images, labels, tmp_path):
    model, own = make(**WITH_VISION), make_clip().double().state_dict()
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert any("vision_model.modules_to_save.default.encoder" in name for name in trained)
    assert any("visual_projection.modules_to_save.default" in name for name in trained)
    assert not any("text_model.encoder" in name for name in trained)
    before = evaluated(model, images).logits
    expected = evaluated(train(model, images, labels), images).logits
    assert (expected - before).abs().max() > 1e-4
    moved = dict(model.get_base_model().vision_model.named_parameters())
    assert not torch.equal(
        moved["modules_to_save.default.post_layernorm.weight"], moved["original_module.post_layernorm.weight"]
    )
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_clip().double(), tmp_path)
    torch.testing.assert_close(evaluated(loaded, images).logits, expected, **SAME)
    with torch.no_grad(), loaded.disable_adapter():
        zero_shot = loaded(pixel_values=images).logits
    frozen = make()
    with torch.no_grad(), frozen.disable_adapter():
        torch.testing.assert_close(zero_shot, frozen(pixel_values=images).logits, **SAME)
    base = loaded.unload()  # PEFT leaves trained modules in
    assert type(base) is type(make_clip())
    assert {name: tuple(each.shape) for name, each in base.state_dict().items()} == {
        name: tuple(each.shape) for name, each in own.items()
    }
    assert all(torch.equal(each, own[name]) for name, each in base.state_dict().items() if "text" in name)
    assert {type(each) for each in base.modules()} == {type(each) for each in make_clip().modules()}


@torch.no_grad()
def test_stochastic_depth_of_a_trained_tower(make, images):
    model, images = make(**{**WITH_VISION, "drop_path": 0.5}).train(), images.repeat(4, 1, 1, 1)
    torch.manual_seed(0)
    first, second = (model(pixel_values=images).score_map for _ in range(2))
    assert not torch.allclose(first, second)
    torch.testing.assert_close(evaluated(model, images).score_map, evaluated(model, images).score_map, **SAME)
    frozen = make(**{**STILL, "drop_path": 0.9}).train()
    torch.testing.assert_close(frozen(pixel_values=images).score_map, frozen(pixel_values=images).score_map, **SAME)


def test_auto_class_loads_base_and_adapter(make, clip_path, config, images, tmp_path):
    from transformers import CLIPModel

    model = perturb(get_peft_model(CLIPModel.from_pretrained(clip_path), config()))
    model.save_pretrained(tmp_path)
    loaded = AutoPeftModelForSemanticSegmentation.from_pretrained(tmp_path)
    assert type(loaded) is PeftModelForSemanticSegmentation
    torch.testing.assert_close(evaluated(loaded, images.float()).logits, evaluated(model, images.float()).logits)
    assert "pipeline_tag: image-segmentation" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_what_cannot_be_merged(make):
    model = make()
    for call in (model.merge_adapter, model.merge_and_unload):
        with pytest.raises(NotImplementedError, match="cannot be merged into the base model"):
            call()


def test_weights_of_other_classes_are_refused(make, config, tmp_path):
    make().save_pretrained(tmp_path)
    other = get_peft_model(make_clip().double(), config(class_names=["sky", "lamp"]))
    with pytest.raises(ValueError, match=r"`class_names` is \['sky', 'tree', 'car'\] there and \['sky', 'lamp'\] here"):
        other.load_adapter(tmp_path, "default")


def test_several_adapters(make, config, images, labels):
    """Each with its own head, statistics and vision tower; one with other classes."""
    model = make(**WITH_VISION)
    first = evaluated(model, images).logits
    model.add_adapter("second", config(class_names=["lamp", "road"], head="segformer", **WITH_VISION))
    model.set_adapter("second")
    perturb(model, seed=5)
    train(model, images, labels.clamp(max=1))
    second = evaluated(model, images).logits
    assert second.shape == (2, 2, 12, 16)
    assert model.config.id2label == {0: "lamp", 1: "road"}
    model.set_adapter("default")
    torch.testing.assert_close(evaluated(model, images).logits, first, **SAME)
    model.delete_adapter("second")
    torch.testing.assert_close(evaluated(model, images).logits, first, **SAME)


@pytest.mark.parametrize("coop_first", [True, False])
def test_beside_coop_on_one_model(config, tokenizer_path, images, labels, coop_first):
    coop = CoOpConfig(class_names=["cat", "dog"], n_ctx=4, tokenizer_name_or_path=tokenizer_path)
    configs = {"words": coop, "places": config()}
    order = list(configs) if coop_first else list(configs)[::-1]
    torch.manual_seed(0)
    model = get_peft_model(make_clip().double(), configs[order[0]], order[0])
    model.add_adapter(order[1], configs[order[1]])
    model.set_adapter("places")
    train(perturb(model), images, labels)
    dense = evaluated(model, images)
    assert dense.logits.shape == (2, 3, 12, 16)
    assert slide_inference(model, images, 16).shape == (2, 3, 24, 32)
    model.set_adapter("words")
    squares = images[..., :16, :16]
    with torch.no_grad():
        whole = model(pixel_values=squares)
    alone = get_peft_model(make_clip().double(), coop).eval()
    alone.prompt_layer.prompt.load_state_dict(model.prompt_layer.prompt.state_dict())
    torch.testing.assert_close(whole.logits, evaluated(alone, squares).logits, **SAME)
    with pytest.raises(ValueError, match="Adapter 'words' classifies no pixels: its task is IMAGE_CLS"):
        slide_inference(model, images, 16)
    with pytest.raises(ValueError, match="are for different tasks"):
        model(pixel_values=squares, adapter_names=["words", "places"])
    model.set_adapter("places")
    torch.testing.assert_close(evaluated(model, images).logits, dense.logits, **SAME)


def test_one_batch_for_several_adapters(make, config, images):
    model = make()
    model.add_adapter("other", config())
    model.set_adapter("other")
    perturb(model, seed=8)
    other = evaluated(model, images)
    model.set_adapter("default")
    own = evaluated(model, images)
    with torch.no_grad():
        mixed = model(pixel_values=images, adapter_names=["other", "default"])
    torch.testing.assert_close(mixed.logits[0], other.logits[0], **SAME)
    torch.testing.assert_close(mixed.score_map[1], own.score_map[1], **SAME)
    with pytest.raises(ValueError, match="logits of other sizes"), torch.no_grad():
        model(pixel_values=images, adapter_names=["__base__", "default"])


def test_what_is_trained_from_now_on_is_in_training_mode(make, config):
    """Batch norms and stochastic depth of an adapter that is chosen, or enabled again, after `train`."""
    model = make().train()
    model.add_adapter("second", config(train_vision=True))

    def modes(name):
        tower = model.get_base_model().vision_model
        own = dict(tower.modules_to_save.items()).get(name, tower)
        norms = [each for each in model.prompt_layer.prompt_of(name).modules() if isinstance(each, nn.BatchNorm2d)]
        return {each.training for each in norms}, own.encoder.layers[1].training

    assert (modes("default"), modes("second")) == (({True}, False), ({False}, False))
    model.set_adapter("second")
    assert (modes("default")[0], modes("second")) == ({False}, ({True}, True))
    with model.disable_adapter():
        model.eval().train()
        assert modes("second") == ({False}, False)
    assert modes("second") == ({True}, True)
    model.eval().set_adapter("default")
    assert modes("default") == ({False}, False)


def test_beside_a_lora_in_the_vision_tower(make, images, labels):
    model = make(**STILL)
    before = evaluated(model, images).logits
    model.add_adapter("lora", LoraConfig(target_modules=r"vision_model.*(q_proj|v_proj)", r=2))
    train(model, images, labels)
    assert (evaluated(model, images).logits - before).abs().max() > 1e-4
    loras = [weight for name, weight in model.named_parameters() if "lora_B" in name]
    assert len(loras) == 4
    assert all(weight.any() for weight in loras)


def test_groups_of_an_optimizer(make):
    """A tenth for the vision tower and the pyramid, no decay for the decoder's norms, as the original has it."""
    model = make(**WITH_VISION)
    names = {id(weight): name for name, weight in model.named_parameters()}
    groups = {
        (each["lr"], each["weight_decay"]): [names[id(w)] for w in each["params"]]
        for each in model.param_groups(1e-3, 0.5)
    }
    slow, plain, still = groups[1e-4, 0.5], groups[1e-3, 0.5], groups[1e-3, 0.0]
    assert len(groups) == 3
    assert all("vision_model" in name or "visual_projection" in name or ".pyramid." in name for name in slow)
    assert {name.split(".default.")[1].rsplit(".", 1)[0] for name in still} == {
        f"decoder.decoder.0.norm{n}" for n in (1, 2, 3)
    }
    assert not any("vision" in name or "visual" in name or "pyramid" in name for name in plain)
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert sorted([*slow, *plain, *still]) == sorted(trained)


def test_groups_beside_a_lora_and_of_other_methods(make, tokenizer_path):
    model = make(vision_lr_mult=0.2)
    model.add_adapter("lora", LoraConfig(target_modules=r"vision_model.*q_proj", r=2))
    slow = [each for each in model.param_groups(1.0) if each["lr"] == 0.2]
    assert [len(each["params"]) for each in slow] == [len(list(model.prompt_layer.prompt.pyramid.parameters()))]
    config = CoOpConfig(class_names=NAMES, n_ctx=4, tokenizer_name_or_path=tokenizer_path)
    [group] = get_peft_model(make_clip(), config).param_groups(0.5, 0.1)
    assert (group["lr"], group["weight_decay"], len(group["params"])) == (0.5, 0.1, 1)


def make_trainer(model, folder, images, labels, **settings):
    data = Dataset.from_dict({"pixel_values": images.numpy(), "labels": labels.numpy()}).with_format("torch")
    arguments = {"per_device_train_batch_size": 2, "use_cpu": True, "disable_tqdm": True, "report_to": "none"}
    arguments = TrainingArguments(str(folder), **{**arguments, **settings})
    return Trainer(model, arguments, train_dataset=data, eval_dataset=data)


def test_the_trainer_trains_it(tmp_path, config, images):
    """Pixels brighter than others are another class: the loss falls, and what is saved says the same."""
    torch.manual_seed(0)
    model = get_peft_model(make_clip(), config(class_names=["sky", "tree"], **WITH_VISION))
    images = F.interpolate(torch.randn(4, 1, 3, 4), scale_factor=8).expand(-1, 3, -1, -1)
    labels = (images[:, 0] > 0).long()
    recipe = METHODS["dense_clip"].recipe(1)
    more = {"num_train_epochs": 30, "save_strategy": "no", "per_device_train_batch_size": 4}
    arguments = recipe.arguments(str(tmp_path), 4, use_cpu=True, disable_tqdm=True, **more)
    optimizers = recipe.optimizers(model, arguments, 4)
    assert len(optimizers[0].param_groups) == 3
    for group in optimizers[0].param_groups:
        group["initial_lr"] *= 30
    optimizers[1].base_lrs = [30 * rate for rate in optimizers[1].base_lrs]
    data = Dataset.from_dict({"pixel_values": images.numpy(), "labels": labels.numpy()}).with_format("torch")
    trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data, optimizers=optimizers)
    before = trainer.evaluate()["eval_loss"]
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < 0.5 * before
    predictions = trainer.predict(data)
    assert predictions.predictions.shape == (4, 2, 12, 16)
    right = F.interpolate(torch.tensor(predictions.predictions), labels.shape[-2:]).argmax(1) == labels
    assert right.float().mean() > 0.8
    trainer.save_model(str(tmp_path / "saved"))
    loaded = PeftModel.from_pretrained(make_clip(), tmp_path / "saved")
    torch.testing.assert_close(evaluated(loaded, images).logits.numpy(), predictions.predictions, atol=1e-4, rtol=1e-4)


def test_accumulated_batches_are_one_step(tmp_path, make, images, labels):
    """Without batch norms, whose batches are other ones: by the share of pixels, as many in each image."""
    labels = labels.clone()
    labels[:, :5] = 255
    gradients = []
    for accumulated in (1, 2):
        model = make(head="none", **STILL)
        settings = {"gradient_accumulation_steps": accumulated, "per_device_train_batch_size": 2 // accumulated}
        trainer = make_trainer(model, tmp_path, images, labels, max_steps=1, max_grad_norm=0, **settings)
        trainer.args.learning_rate = 0.0
        noted = []
        model.prompt_layer.prompt.ctx.register_hook(lambda gradient, noted=noted: noted.append(gradient))
        trainer.train()
        gradients.append(torch.stack(noted).sum(0))
    assert gradients[0].abs().max() > 1e-6
    torch.testing.assert_close(*gradients, atol=1e-7, rtol=1e-5)


def test_pixels_are_counted_in_full_precision(make, images):
    """Half precision, in which logits may be, counts to 65,504; and a step may have no pixel that is counted."""
    model = make(ignore_index=-100).to(torch.float16).train()
    labels = torch.zeros(2, 192, 256, dtype=torch.long)
    inputs = {"pixel_values": images.half(), "labels": labels}
    outputs = model(**inputs, num_items_in_batch=torch.tensor(labels.numel()))
    assert outputs.logits.dtype == torch.float16
    torch.testing.assert_close(outputs.loss, outputs.loss_parts["cross_entropy"] + 0.4 * outputs.loss_aux)
    inputs["labels"] = torch.full_like(labels, -100)
    assert model(**inputs, num_items_in_batch=torch.tensor(0)).loss == 0


def test_resumed_training_is_the_same(tmp_path, make, images, labels):
    models = []
    for resume in (False, True):
        folder = tmp_path / str(resume)
        settings = {"max_steps": 4, "save_steps": 2, "seed": 0, "learning_rate": 0.01}
        trainer = make_trainer(make(**WITH_VISION), folder, images, labels, **settings)
        if resume:
            trainer.train()
            trainer = make_trainer(make(perturbed=False, **WITH_VISION), folder, images, labels, **settings)
            trainer.train(resume_from_checkpoint=str(folder / "checkpoint-2"))
        else:
            trainer.train()
        models.append(evaluated(trainer.model, images).logits)
    torch.testing.assert_close(*models, **SAME)


def test_statistics_over_processes(make, images, labels):
    """torch's batch norms can be converted, and a head's own are all of this kind."""
    model = make()
    prompt = nn.SyncBatchNorm.convert_sync_batchnorm(model).prompt_layer.prompt
    kinds = {type(each) for each in prompt.modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)}
    assert kinds == {nn.SyncBatchNorm}


def test_in_half_precision(make, config, images, labels):
    """A base model in bfloat16 with an adapter in float32, and autocast: as in float32, roughly."""
    torch.manual_seed(0)
    whole = perturb(get_peft_model(make_clip(), config(**STILL))).train()
    expected = whole(pixel_values=images.float(), labels=labels)
    half = get_peft_model(make_clip().bfloat16(), config(**STILL)).train()
    half.prompt_layer.prompt.load_state_dict(whole.prompt_layer.prompt.state_dict())
    assert half.prompt_layer.prompt.gamma.dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        cast = whole(pixel_values=images.float(), labels=labels)
    for outputs in (half(pixel_values=images.bfloat16(), labels=labels), cast):
        assert outputs.score_map.dtype == torch.float32
        assert outputs.loss.item() == pytest.approx(expected.loss.item(), rel=0.1)
        outputs.loss.backward()
    assert all(weight.grad.isfinite().all() for weight in whole.parameters() if weight.requires_grad)


def test_gradient_checkpointing_changes_nothing(make, images, labels):
    gradients = []
    for again in (False, True):
        model = make(**{**WITH_VISION, "drop_path": 0.5})
        if again:
            base = model.get_base_model()
            getattr(base, "activation_checkpointing_enable", base.gradient_checkpointing_enable)()
        torch.manual_seed(0)
        model.train()(pixel_values=images, labels=labels).loss.backward()
        gradients.append({name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, **SAME, msg=name)


def by_hand(model, images, window, stride):
    """Windows one by one, image by image, pixel by pixel."""
    height, width = images.shape[-2:]
    total, counts = torch.zeros(len(images), 3, height, width).double(), torch.zeros(height, width)
    tops = sorted({min(top, height - window) for top in range(0, height, stride)})
    lefts = sorted({min(left, width - window) for left in range(0, width, stride)})
    for top in tops:
        for left in lefts:
            part = images[..., top : top + window, left : left + window]
            logits = F.interpolate(evaluated(model, part).logits, (window, window), mode="bilinear")
            total[..., top : top + window, left : left + window] += logits
            counts[top : top + window, left : left + window] += 1
    assert counts.min() > 0
    return total / counts


def test_sliding_windows(make):
    model = make()
    images = torch.randn(1, 3, 40, 29, generator=torch.Generator().manual_seed(4)).double()
    found = model.slide_inference(images, window=16)
    torch.testing.assert_close(found, by_hand(model, images, 16, 10), **SAME)
    torch.testing.assert_close(slide_inference(model, images, 16, stride=16), by_hand(model, images, 16, 16), **SAME)
    larger = slide_inference(model, images, 16, size=(80, 60))
    torch.testing.assert_close(larger, F.interpolate(found, (80, 60), mode="bilinear"), **SAME)


def test_windows_as_large_as_the_image_are_a_plain_call(make, images):
    model = make()
    logits = F.interpolate(evaluated(model, images).logits, (24, 32), mode="bilinear")
    torch.testing.assert_close(slide_inference(model, images, 32), logits, **SAME)


def test_mirror_images(make, images):
    """Probabilities are averaged; an image that is its own mirror image is read as its mirror image is."""
    model = make()
    both = slide_inference(model, images, 16, flip=True)
    torch.testing.assert_close(both.exp().sum(1), torch.ones(2, 24, 32).double(), **SAME)
    straight = slide_inference(model, images, 16).softmax(1)
    mirrored = slide_inference(model, images.flip(-1), 16).flip(-1).softmax(1)
    torch.testing.assert_close(both.exp(), (straight + mirrored) / 2, **SAME)
    torch.testing.assert_close(slide_inference(model, images.flip(-1), 16, flip=True).flip(-1), both, **SAME)


@pytest.mark.parametrize("size", [(13, 21), (5, 40), (16, 9)])
def test_images_smaller_than_the_window(make, size):
    """They are filled up to whole patches, and no further; what was filled up is not in the result."""
    model = make()
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(4)).double()
    found = slide_inference(model, image, window=48)
    sides = [max(16, -(-length // 8) * 8) for length in size]
    filled = F.pad(image, (0, sides[1] - size[1], 0, sides[0] - size[0]))
    logits = F.interpolate(evaluated(model, filled).logits, sides, mode="bilinear")
    torch.testing.assert_close(found, logits[..., : size[0], : size[1]], **SAME)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"window": 20}, "`window` must be a multiple of the patches' 8 pixels, 16 or more; got 20"),
        ({"window": 8}, "16 or more; got 8"),
        ({"stride": 0}, "`stride` must be from 1 to the window's 16 pixels, got 0"),
        ({"stride": 17}, "`stride` must be from 1 to the window's 16 pixels, got 17"),
        ({"pixel_values": torch.zeros(3, 24, 24)}, "must be (images, 3, height, width), got (3, 24, 24)"),
    ],
)
def test_windows_that_are_refused(make, images, given, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        slide_inference(make(), **{"pixel_values": images, "window": 16, **given})


def test_windows_are_for_models_that_are_evaluated(make, images):
    with pytest.raises(ValueError, match=r"is for evaluation: call `model.eval\(\)` first"):
        slide_inference(make().train(), images, 16)
    with pytest.raises(TypeError, match="A model with a learned prompt is needed; got CLIPModel"):
        slide_inference(make_clip(), images, 16)


def test_the_card_says_that_all_classes_have_the_vectors(make, tmp_path):
    make().save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "3 learned vectors in front of the name, a decoder" in card


def test_the_example_of_the_card_runs(make, tmp_path, monkeypatch, capsys):
    """On a picture that is no square, with CLIP's own processor."""
    model = make().float()
    processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16)
    Image.frombytes("RGB", (50, 40), bytes(range(256)) * 23 + bytes(112)).save(tmp_path / "image.jpg")
    monkeypatch.chdir(tmp_path)
    names = {"model": model, "processor": processor, "Image": Image, "torch": torch, "peft_coop": peft_coop}
    exec(model.prompt_layer.prompt.task_head.example(model.peft_config["default"]), names)
    assert names["classes"].shape == (40, 50)
    assert set(eval(capsys.readouterr().out)) <= set(NAMES)


def test_a_pipeline_serves_it(make):
    """A mask for each class that is found, of the size of the picture."""
    model = make().float()
    processor = SegformerImageProcessor(size={"height": 24, "width": 32})
    picture = Image.frombytes("RGB", (50, 40), bytes(range(256)) * 23 + bytes(112))
    found = pipeline("image-segmentation", model=model, image_processor=processor)(picture, subtask="semantic")
    assert {each["label"] for each in found} <= set(NAMES)
    assert found
    assert all(each["mask"].size == (50, 40) for each in found)
    pixels = sum((np.asarray(each["mask"]) > 0).astype(int) for each in found)
    assert (pixels == 1).all()
