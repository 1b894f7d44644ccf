"""Video prompting: the numbers of the paper's own code, what vectors are indexed by, what the frames' order does."""

import re

import pytest
import torch
from conftest import make_clip
from golden_cases import AFTER_STEPS, LOGITS, assert_first_gradient, golden_case, golden_inputs, golden_model
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file
from transformers import Trainer, TrainingArguments

from peft_coop import (
    AutoPeftModelForVideoClassification,
    CoOpConfig,
    PeftModelForVideoClassification,
    VideoPromptConfig,
)

NAMES = ["jump", "brush hairs", "kick ball", "draw a long sword"]
EXACT = {"atol": 1e-9, "rtol": 0}
# What the original calls the parts of a layer, and what they are called here.
PARTS = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
BESIDE = {"embedding.weight": "ctx", "temporalEmbedding.weight": "temporal_positions"}


def own_tensors(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The original's tensors by our names; queries, keys and values are one matrix there."""
    own = {BESIDE[name]: tensor for name, tensor in tensors.items() if name in BESIDE}
    for name, tensor in tensors.items():
        found = re.fullmatch(r"temporalModelling\.resblocks\.(\d+)\.(.+)", name)
        if found is None:
            continue
        layer, part = f"temporal_layers.{found[1]}", found[2]
        if part.startswith("attn.in_proj_"):
            kind = part.removeprefix("attn.in_proj_")
            for letter, third in zip("qkv", tensor.chunk(3), strict=True):
                own[f"{layer}.self_attn.{letter}_proj.{kind}"] = third
        else:
            module, _, kind = part.rpartition(".")
            own[f"{layer}.{PARTS[module]}.{kind}"] = tensor
    return own


def kind_of(case, start: str) -> dict[str, torch.Tensor]:
    """The original's tensors whose names begin so, by our names."""
    named = {name.removeprefix(start): value for name, value in case.tensors.items() if name.startswith(start)}
    return own_tensors(named)


@pytest.fixture(params=["case0", "case1"])
def case(request):
    return golden_case("video", request.param)


@pytest.fixture(params=[torch.float32, torch.float64], ids=str)
def model(request, case, tokenizer_path):
    given = case.cases
    config = VideoPromptConfig(
        class_names=case.class_names,
        tokenizer_name_or_path=tokenizer_path,
        n_prefix=given["prefix"],
        n_suffix=given["postfix"],
        suffix_indexing="absolute",
        num_frames=case.num_frames,
        temporal_layers=given["temporal_layers"],
        temporal_heads=given["temporal_heads"] or 8,
        normalize=bool(given["featnorm"]),
        zero_shot_template="a video of a person doing {}.",
    )
    model = get_peft_model(golden_model(case), config)
    model.prompt_layer.prompt.load_state_dict(start_of(case))
    return model.to(request.param).train()


def start_of(case) -> dict[str, torch.Tensor]:
    start = kind_of(case, "")
    return start if case.cases["temporal"] else {"ctx": start["ctx"]}


def test_the_originals_start(model, case):
    inputs = golden_inputs(case, model.dtype)
    outputs = model(**inputs)
    torch.testing.assert_close(outputs.logits.float(), case.tensors["logits"], **LOGITS)
    torch.testing.assert_close(outputs.loss.double(), case.tensors["loss"], atol=1e-5, rtol=0)
    outputs.loss.backward()
    expected = kind_of(case, "grad.")
    learned = dict(model.prompt_layer.prompt.named_parameters())
    assert expected.keys() == learned.keys()
    for name, parameter in learned.items():
        assert_first_gradient(parameter.grad, expected[name])
    embeds = {"image_embeds": case.all["image_embeds"].to(model.dtype), "labels": inputs["labels"]}
    torch.testing.assert_close(model(**embeds).logits.float(), case.tensors["logits"], **LOGITS)


def test_the_originals_ten_steps(model, case):
    recipe, prompt = case.cases["optimizer"], model.prompt_layer.prompt
    rates = {name: recipe[name] for name in ("lr", "momentum", "weight_decay")}
    optimizer = torch.optim.SGD(prompt.parameters(), **rates)
    losses, inputs = [], golden_inputs(case, model.dtype)
    for _ in range(recipe["steps"]):
        model.zero_grad()
        losses.append(model(**inputs).loss)
        losses[-1].backward()
        optimizer.step()
    expected = case.tensors["losses"]
    torch.testing.assert_close(torch.stack(losses).double(), expected.double(), atol=2e-5, rtol=0)
    for name, tensor in kind_of(case, "final.").items():
        if name in dict(prompt.named_parameters()):
            torch.testing.assert_close(prompt.get_parameter(name).float(), tensor, atol=1e-5, rtol=0)
    with torch.no_grad():
        logits = model.eval()(pixel_values=inputs["pixel_values"]).logits
    torch.testing.assert_close(logits.float(), case.tensors["final.logits"], **AFTER_STEPS)


def test_disabled_it_is_the_frozen_model(model, case):
    first_frames = case.all["pixel_values"].to(model.dtype)[:, :1]
    with model.disable_adapter(), torch.no_grad():
        logits = model(pixel_values=first_frames).logits
    torch.testing.assert_close(logits.float(), case.all["zero_shot/logits"], **LOGITS)


@pytest.fixture
def make(tokenizer_path):
    """Makes a model in float64, in evaluation mode; no layer over the frames if not asked for."""

    def make(**settings):
        given = {"class_names": NAMES, "tokenizer_name_or_path": tokenizer_path, "temporal_layers": 0}
        given |= {"n_prefix": 2, "n_suffix": 2, "num_frames": 4, "temporal_heads": 4}
        return get_peft_model(make_clip().double(), VideoPromptConfig(**given | settings)).eval()

    return make


@pytest.fixture
def frames() -> torch.Tensor:
    return torch.randn(3, 4, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.randn(3, 4, 3, 16, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def row_gradients(model, frames) -> torch.Tensor:
    """Which vectors have a gradient."""
    model.train()(image_embeds=frames, labels=torch.tensor([0, 1, 3])).loss.backward()
    return model.prompt_layer.prompt.ctx.grad.abs().sum(1) > 0


@torch.no_grad()
def test_one_vector_around_is_clips_own_with_the_words_embedding(make, pixels, tokenizer):
    """Where a learned vector is a word's embedding, the prompt is that text; the video the mean of its frames."""
    model = make(n_prefix=1, n_suffix=1)
    base = model.get_base_model()
    words = tokenizer("now again", add_special_tokens=False)["input_ids"]
    table = base.prompt_layer.base_layer.token_embedding.weight
    base.prompt_layer.prompt.ctx.copy_(table[words])
    outputs = model(pixel_values=pixels)
    plain = make_clip().double()
    given = tokenizer([f"now {name} again" for name in NAMES], padding=True, return_tensors="pt")
    texts = plain.get_text_features(**given).pooler_output
    images = plain.get_image_features(pixels.flatten(0, 1)).pooler_output.unflatten(0, (3, 4)).mean(1)
    expected = torch.cosine_similarity(images[:, None], texts[None], dim=-1) / 0.07
    torch.testing.assert_close(outputs.logits, expected, **EXACT)
    torch.testing.assert_close(outputs.video_embeds, torch.nn.functional.normalize(images, dim=-1), **EXACT)
    by_product = make(n_prefix=1, n_suffix=1, normalize=False)
    by_product.prompt_layer.prompt.ctx.copy_(table[words])
    torch.testing.assert_close(by_product(pixel_values=pixels).logits, images @ texts.t(), **EXACT)


def test_absolute_vectors_are_those_of_places(make, frames, tokenizer):
    """A name with one piece more has its suffix one row further on; what no prompt reads has no gradient at all."""
    lengths = {len(tokenizer(name, add_special_tokens=False)["input_ids"]) for name in NAMES}
    assert min(lengths) == 1
    learned = row_gradients(make(suffix_indexing="absolute"), frames)
    assert len(learned) == 77
    expected = {1, 2} | {3 + length + index for length in lengths for index in range(2)}
    assert set(learned.nonzero().flatten().tolist()) == expected
    rows, _ = make(suffix_indexing="absolute").prompt_layer.prompt.named_vectors(NAMES)
    assert {row.index for row in rows} == expected


def test_relative_vectors_are_the_same_behind_every_name(make, frames):
    model = make()
    assert row_gradients(model, frames).tolist() == [True] * 4
    ids = model.prompt_layer.prompt.sequences(NAMES).ids
    assert {each[1:3] for each in ids} == {(49408, 49409)}
    assert {each[-3:-1] for each in ids} == {(49410, 49411)}


def test_the_order_of_frames_counts_with_a_temporal_layer_only(make, frames):
    with torch.no_grad():
        mean, ordered = make(), make(temporal_layers=1)
        for model, is_same in ((mean, True), (ordered, False)):
            logits, turned = model(image_embeds=frames).logits, model(image_embeds=frames.flip(1)).logits
            assert torch.allclose(logits, turned, atol=1e-9, rtol=0) is is_same


@pytest.mark.parametrize(("temporal_layers", "least", "most"), [(0, 0.3, 0.7), (1, 0.95, 1.0)])
def test_what_differs_in_the_order_of_frames_alone(make, temporal_layers, least, most):
    """Frames of two kinds, in one order or the other: their mean says nothing, one layer over them everything."""
    random = torch.Generator().manual_seed(0)
    kinds = torch.randn(2, 40, generator=random, dtype=torch.float64)
    order = torch.tensor([0] * 4 + [1] * 4)

    def videos(n):
        labels = torch.randint(2, (n,), generator=random)
        noise = torch.randn(n, 8, 40, generator=random, dtype=torch.float64)
        return kinds[(order + labels[:, None]) % 2] + 0.3 * noise, labels

    torch.manual_seed(0)
    model = make(class_names=NAMES[:2], temporal_layers=temporal_layers, num_frames=8).train()
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=3e-3)
    for _ in range(60):
        frames, labels = videos(32)
        optimizer.zero_grad()
        model(image_embeds=frames, labels=labels).loss.backward()
        optimizer.step()
    frames, labels = videos(200)
    with torch.no_grad():
        accuracy = (model.eval()(image_embeds=frames).logits.argmax(-1) == labels).double().mean().item()
    assert least <= accuracy <= most


def test_a_call_can_be_about_some_classes(make, frames):
    model, labels = make(), torch.tensor([3, 1, 3])
    every = model(image_embeds=frames, labels=labels)
    some = model(image_embeds=frames, labels=labels, class_ids=[3, 1])
    torch.testing.assert_close(some.logits, every.logits[:, [3, 1]], **EXACT)
    expected = torch.nn.functional.cross_entropy(every.logits[:, [3, 1]], torch.tensor([0, 1, 0]))
    torch.testing.assert_close(some.loss, expected, **EXACT)
    with pytest.raises(ValueError, match=r"`labels` must be among `class_ids`, \[0, 1\]; got \[3\]"):
        model(image_embeds=frames, labels=labels, class_ids=torch.tensor([0, 1]))
    for wrong, message in [
        ([0, 4], r"`class_ids` must lie between 0 and 3, each once; got \[4\]"),
        ([1, 1], r"each once; got \[1\]"),
        ([[0]], r"`class_ids` must be a list of numbers of classes, got torch.int64 of shape \(1, 1\)"),
        ([0.5], r"got torch.float32 of shape \(1,\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            model(image_embeds=frames, class_ids=wrong)


def test_a_training_step_compares_with_as_many_classes_as_it_should(make, frames):
    model = make(num_contrast=3).train()
    labels, seen = torch.tensor([3, 1, 3]), set()
    for _ in range(12):
        outputs = model(image_embeds=frames, labels=labels)
        assert outputs.logits.shape == (3, 3)
        chosen = model.prompt_layer.prompt.arguments_of_step(labels)["class_ids"]
        assert {1, 3} < set(chosen)
        assert len(chosen) == 3
        seen |= set(chosen)
    assert seen == {0, 1, 2, 3}
    assert model.eval()(image_embeds=frames, labels=labels).logits.shape == (3, 4)
    assert make(num_contrast=4).prompt_layer.prompt.arguments_of_step(labels) == {}
    assert make(num_contrast=1).prompt_layer.prompt.arguments_of_step(labels) == {"class_ids": [1, 3]}


def test_the_output_says_what_its_columns_are(make, frames, tmp_path):
    """A loss of one's own would take the columns of a training step for those of the adapter's classes."""
    model, labels = make(num_contrast=3).train(), torch.tensor([3, 1, 3])
    for _ in range(4):
        outputs = model(image_embeds=frames, labels=labels)
        assert len(outputs.class_names) == 3
        columns = torch.tensor([outputs.class_names.index(model.class_names[label]) for label in labels])
        own = torch.nn.functional.cross_entropy(outputs.logits, columns)
        torch.testing.assert_close(own, outputs.loss, atol=1e-9, rtol=0)
    model.eval()
    assert model(image_embeds=frames, labels=labels).class_names is None
    every = model(image_embeds=frames).logits
    for chosen in ({"class_ids": [2, 0]}, {"class_names": [model.class_names[2], model.class_names[0]]}):
        outputs = model(image_embeds=frames, **chosen)
        assert outputs.class_names == [model.class_names[2], model.class_names[0]]
        torch.testing.assert_close(outputs.logits, every[:, [2, 0]], atol=1e-9, rtol=0)
    assert model(image_embeds=frames, class_names=model.class_names).class_names is None
    rows = [{"image_embeds": each, "labels": 0} for each in frames.float()]
    arguments = TrainingArguments(tmp_path, report_to=[], use_cpu=True, disable_tqdm=True)
    given = Choosing(model.float(), arguments).predict(rows).predictions
    assert given == pytest.approx(every[:, [2, 0]].detach().numpy(), abs=1e-3)


class Choosing(Trainer):
    """A Trainer that classifies into two of the classes."""

    def compute_loss(self, model, inputs, return_outputs=False, **kwargs):
        return super().compute_loss(model, {**inputs, "class_ids": [2, 0]}, return_outputs)


def test_labels_of_a_step_that_are_refused(make, frames):
    """As labels, and not as the `class_ids` that nobody gave."""
    model = make(num_contrast=3).train()
    with pytest.raises(ValueError, match=r"`labels` must lie between 0 and 3 \(4 classes\), got \[-100\]"):
        model(image_embeds=frames, labels=[0, -100, 1])
    for given in ({}, {"class_ids": [0, 1]}):
        with pytest.raises(ValueError, match=r"`labels` must be integers, one per image, got torch\.float32"):
            model(image_embeds=frames, labels=[0.0, 1.0, 1.0], **given)
    with pytest.warns(UserWarning, match="`num_contrast` 3 has no effect: videos are compared with all 4 classes"):
        assert model(image_embeds=frames).logits.shape == (3, 4)


def test_saved_and_loaded(make, frames, tmp_path, clip_path):
    model = make(temporal_layers=2, suffix_indexing="absolute")
    assert type(model) is PeftModelForVideoClassification
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    start = "base_model.model.text_model.embeddings.video_prompt_"
    assert {key.removeprefix(start) for key in saved} >= {
        "ctx",
        "temporal_positions",
        "temporal_layers.0.self_attn.k_proj.weight",
        "temporal_layers.1.mlp.fc2.bias",
    }
    assert all(key.startswith(start) for key in saved)
    loaded = PeftModel.from_pretrained(make_clip().double(), tmp_path).double().eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(image_embeds=frames).logits, model(image_embeds=frames).logits, **EXACT)
    card = (tmp_path / "README.md").read_text()
    assert "pipeline_tag: video-classification" in card
    assert '["pixel_values"][None]}' in card
    config = model.peft_config["default"]
    config.base_model_name_or_path = clip_path
    config.save_pretrained(tmp_path)
    assert type(AutoPeftModelForVideoClassification.from_pretrained(tmp_path)) is PeftModelForVideoClassification


def test_beside_a_prompt_for_images(make, frames, tokenizer_path):
    """One model, two tasks: the active adapter says which."""
    model = make()
    model.add_adapter("images", CoOpConfig(class_names=NAMES, n_ctx=2, tokenizer_name_or_path=tokenizer_path))
    with torch.no_grad():
        expected = model(image_embeds=frames).logits
        model.set_adapter("images")
        assert model(image_embeds=frames[:, 0]).logits.shape == (3, 4)
        with pytest.raises(ValueError, match=r"`image_embeds` must be \(batch, 40\), got \(3, 4, 40\)"):
            model(image_embeds=frames)
        model.set_adapter("default")
        torch.testing.assert_close(model(image_embeds=frames).logits, expected, **EXACT)
        with pytest.raises(ValueError, match=r"for different tasks, \{'default': 'VIDEO_CLS', 'images': 'IMAGE_CLS'\}"):
            model(image_embeds=frames, adapter_names=["default", "images", "default"])
        given = {"class_names": NAMES, "tokenizer_name_or_path": tokenizer_path, "temporal_layers": 0}
        model.add_adapter("other", VideoPromptConfig(**given))
        mixed = model(image_embeds=frames, adapter_names=["default", "other", "__base__"])
        torch.testing.assert_close(mixed.logits[0], expected[0], **EXACT)
        with model.disable_adapter():
            torch.testing.assert_close(mixed.logits[2], model(image_embeds=frames).logits[2], **EXACT)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"suffix_indexing": "middle"}, ValueError, "`suffix_indexing` must be one of"),
        ({"n_prefix": -1}, ValueError, "`n_prefix` must be a whole number of 1 or more, got -1"),
        ({"temperature": 0}, ValueError, "`temperature` must be a finite number above 0, got 0"),
        ({"temporal_dropout": 1}, ValueError, "`temporal_dropout` must be a share below 1"),
        ({"normalize": 1}, TypeError, "`normalize` must be True or False, got 1"),
        ({"n_prefix": 0, "n_suffix": 0}, ValueError, "There is nothing to learn"),
        ({"temporal_layers": 1, "temporal_heads": 7}, ValueError, "`temporal_heads` must divide .* 40, got 7"),
        (
            {"n_prefix": 70, "n_suffix": 16},
            ValueError,
            r"\(context 86, .*: lower `n_prefix` \+ `n_suffix` to 71",
        ),
    ],
)
def test_settings_that_are_refused(make, settings, error, message):
    with pytest.raises(error, match=message):
        make(**settings)


def test_videos_that_are_refused(make, frames, pixels):
    model = make(temporal_layers=1)
    with pytest.raises(ValueError, match=r"A video must have `num_frames` = 4 frames, .* got 3"):
        model(image_embeds=frames[:, :3])
    with pytest.raises(ValueError, match=r"`pixel_values` of videos must be \(batch, frames, 3, height, width\)"):
        model(pixel_values=pixels[:, 0])
    with pytest.raises(ValueError, match=r"`image_embeds` must be \(batch, frames, 40\), got \(3, 40\)"):
        model(image_embeds=frames[:, 0])
    with pytest.raises(ValueError, match="got both"):
        model(image_embeds=frames, pixel_values=pixels)
