"""DenseCLIP: what it learns, says and saves, beside the numbers of `test_dense_clip_golden`."""

import re
import warnings
from functools import partial

import pytest
import torch
from conftest import make_clip
from dense_models import NAMES, STILL, evaluated, make_config, make_model, some_images, some_labels
from peft import PeftConfig, get_peft_model
from torch import nn
from transformers.loss.loss_utils import ForSemanticSegmentationLoss

from peft_coop import DenseCLIPConfig, PromptSegmenterOutput
from peft_coop.towers import PlaceFeatures, features_of_places, normalize

SAME = {"atol": 1e-9, "rtol": 1e-9}


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


def test_the_papers_settings():
    config = DenseCLIPConfig()
    assert (config.n_ctx, config.max_class_tokens, config.ctx_init_std, config.gamma_init) == (8, 5, 1.0, 1e-4)
    assert (config.decoder_width, config.decoder_layers, config.decoder_heads, config.decoder_dropout) == (
        256,
        3,
        4,
        0.1,
    )
    assert (config.tau, config.aux_loss_weight, config.out_indices, config.score_level) == (0.07, 0.4, [3, 5, 7, 11], 2)
    assert (config.head, config.head_channels, config.head_dropout) == ("semantic_fpn", 256, 0.1)
    assert (config.train_vision, config.vision_lr_mult, config.drop_path) == (True, 0.1, 0.1)
    assert (config.ignore_index, config.reference_quirks) == (255, False)
    assert config.modules_to_save == ["vision_model", "visual_projection"]
    assert (config.peft_type.value, config.task_type.value) == ("DENSE_CLIP", "SEMANTIC_SEG")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"head": "fcn"}, "`head` must be one of ('semantic_fpn', 'upernet', 'segformer', 'none'), got 'fcn'"),
        ({"n_ctx": -1}, "`n_ctx` must be a whole number"),
        ({"n_ctx": False}, "`n_ctx` must be a whole number"),
        ({"decoder_width": 18, "decoder_heads": 4}, "a multiple of `decoder_heads`: got 18 and 4"),
        ({"tau": 0}, "`tau` must be a finite number above 0, got 0"),
        ({"gamma_init": -1}, "`gamma_init` must be a finite number of 0 or more"),
        ({"drop_path": 1}, "`drop_path` must be a share below 1, got 1.0"),
        ({"out_indices": [1, 2]}, "`out_indices` must be the numbers of 4 layers, got [1, 2]"),
        ({"out_indices": (0, 1, 2, -3)}, "`out_indices` must be a whole number of 1 or more, got -3"),
        ({"score_level": 4}, "`score_level` must be a level of the pyramid, 0 to 3, got 4"),
        ({"ignore_index": 1}, "`ignore_index` 1 is the label of the class 'tree': give another number"),
        ({"ignore_index": 2.0}, "`ignore_index` must be a whole number, got 2.0"),
        ({"train_vision": 1}, "`train_vision` must be True or False, got 1"),
        ({"loss_type": "sigmoid"}, "`loss_type` of DenseCLIP is 'softmax', got 'sigmoid'"),
        ({"modules_to_save": ["vision_model"]}, "`train_vision` is False, and `modules_to_save` names 'vision_model'"),
    ],
)
def test_settings_that_are_refused(config, settings, message):
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        config(**settings)


def test_settings_are_saved_and_read(config, tmp_path):
    given = config(head="upernet", train_vision=True, modules_to_save=["text_model.final_layer_norm"])
    given.save_pretrained(tmp_path)
    loaded = PeftConfig.from_pretrained(tmp_path)
    assert type(loaded) is DenseCLIPConfig
    assert loaded == given
    assert loaded.modules_to_save == ["vision_model", "visual_projection", "text_model.final_layer_norm"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"out_indices": (0, 1, 1, 2)}, "`out_indices` [0, 1, 1, 2] names layers that this vision tower has not"),
        ({"max_class_tokens": 2}, "needs 3 tokens (2 of them around it), and `max_class_tokens` is 2: set it to 3 or"),
        ({"class_names": None}, "A 'semantic_fpn' head needs `class_names`: it has weights of its own for every class"),
        ({"n_ctx": 80}, "needs 83 tokens"),
    ],
)
def test_what_does_not_fit_the_model_leaves_it_as_it_was(config, settings, message):
    clip = make_clip()
    with pytest.raises(ValueError, match=re.escape(message)):
        get_peft_model(clip, config(**settings))
    assert type(clip).__mro__[0] is type(make_clip())
    assert not any("learned" in name for name, _ in clip.named_modules())


def test_the_papers_layers_are_those_of_a_tower_of_twelve(config):
    with pytest.warns(
        UserWarning, match=r"has 2 layers, and `out_indices` \(3, 5, 7, 11\) are for one of 12: \(0, 0, 1, 1\)"
    ):
        model = get_peft_model(make_clip(), config(out_indices=(3, 5, 7, 11)))
    assert model.peft_config["default"].out_indices == [0, 0, 1, 1]


def test_the_papers_start(make):
    torch.manual_seed(0)
    prompt = make(perturbed=False, n_ctx=60).prompt_layer.prompt
    assert prompt.ctx.abs().max() <= 2
    assert 0.83 < prompt.ctx.std() < 0.93  # a normal distribution of 1, cut at 2
    torch.testing.assert_close(prompt.gamma.detach(), torch.full_like(prompt.gamma, 1e-4), atol=1e-11, rtol=0)
    small = make(perturbed=False, n_ctx=60, ctx_init_std=0.02).prompt_layer.prompt.ctx
    assert 0.016 < small.std() < 0.019


@pytest.mark.parametrize("head", ["semantic_fpn", "upernet", "segformer", "none"])
@pytest.mark.parametrize("size", [(16, 16), (24, 32), (40, 16)])
def test_shapes(make, head, size):
    model = make(head=head)
    outputs = evaluated(model, torch.zeros(2, 3, *size).double())
    grid = (size[0] // 8, size[1] // 8)
    factor = 1 if head == "none" else 4
    assert isinstance(outputs, PromptSegmenterOutput)
    assert outputs.logits.shape == (2, 3, factor * grid[0], factor * grid[1])
    assert outputs.score_map.shape == (2, 3, *grid)
    assert outputs.text_embeds.shape == (2, 3, 40)
    assert outputs.loss is None
    if head == "none":
        torch.testing.assert_close(outputs.logits, outputs.score_map / 0.07, **SAME)


@pytest.mark.parametrize("head", ["semantic_fpn", "none"])
def test_the_loss(make, images, labels, head):
    """As transformers' own for segmentation, in training and in evaluation."""
    model = make(head=head, aux_loss_weight=0.3, **STILL)
    for mode in (True, False):
        outputs = model.train(mode)(pixel_values=images, labels=labels)
        auxiliary = None if head == "none" else outputs.score_map / 0.07
        expected = ForSemanticSegmentationLoss(
            outputs.logits, labels, 255, auxiliary_logits=auxiliary, auxiliary_loss_weight=0.3
        )
        torch.testing.assert_close(outputs.loss, expected, **SAME)
        assert (outputs.loss_aux is None) == (head == "none")
        assert outputs.loss_parts.keys() == ({"cross_entropy"} if head == "none" else {"cross_entropy", "auxiliary"})


def test_probabilities_of_pixels(make, images):
    """They sum to 1 over the classes of each, at a temperature."""
    model = make()
    model.set_decision(calibration_temperature=2.0)
    found = model.probabilities(pixel_values=images)
    torch.testing.assert_close(found, (evaluated(model, images).logits / 2).softmax(1), **SAME)
    with pytest.raises(ValueError, match="no pixel is answered with 'other'"):
        model.set_decision(min_probability=0.5)


@pytest.mark.parametrize(("settings", "count"), [({}, 1), ({"head": "none"}, 0), ({"aux_loss_weight": 0.0}, 0)])
def test_a_loss_from_outside_lacks_the_score_maps(make, images, settings, count):
    model = make(**settings).train()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        model(pixel_values=images)
    assert ["lacks the method's own auxiliary" in str(each.message) for each in told] == [True] * count


def test_without_any_label_nothing_is_learned(make, images):
    model = make().train()
    outputs = model(pixel_values=images, labels=torch.full((2, 24, 32), 255))
    assert outputs.loss == 0
    outputs.loss.backward()
    gradients = [weight.grad for weight in model.prompt_layer.prompt.parameters()]
    assert all(gradient is not None and not gradient.any() for gradient in gradients)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"labels": torch.zeros(2, dtype=torch.long)}, "`labels` must be integers of shape (2, height, width)"),
        ({"labels": torch.full((2, 24, 32), 3)}, "between 0 and 2 (3 classes), or be 255"),
        ({"pixel_values": torch.zeros(1, 3, 20, 16)}, "multiples of the patches' 8 pixels; got (1, 3, 20, 16)"),
        ({"pixel_values": None, "image_embeds": torch.zeros(2, 40)}, "its pixels are classified: give `pixel_values`"),
        ({"pixel_values": None}, "`pixel_values` are missing"),
        ({"output_hidden_states": True}, "Images whose pixels are classified have no `output_hidden_states`"),
        ({"input_ids": torch.tensor([[49406, 320, 49407]])}, "cannot be put into other texts"),
        ({"interpolate_pos_encoding": False}, "positions for images of 16 x 16 pixels, got 24 x 32"),
        ({"class_names": ["sky", "lamp"]}, "with weights of its own for each of ['sky', 'tree', 'car']"),
    ],
)
def test_calls_that_are_refused(make, images, given, message):
    model = make()
    with pytest.raises(ValueError, match=re.escape(message)):
        model(**{"pixel_values": images, **given})


def test_disabled_it_is_zero_shot_place_by_place(make, images, labels):
    model, clip = make(), make_clip().double()
    with torch.no_grad(), model.disable_adapter():
        outputs = model(pixel_values=images, labels=labels)
        texts = model.get_text_features().pooler_output
        places = features_of_places(clip, images).places
    logits = clip.logit_scale.exp() * torch.einsum(
        "bphw,kp->bkhw", normalize(places.movedim(1, -1)).movedim(-1, 1), normalize(texts)
    )
    torch.testing.assert_close(outputs.logits, logits, **SAME)
    assert outputs.loss_aux is None
    assert outputs.loss > 0
    whole = clip.get_image_features(images, interpolate_pos_encoding=True).pooler_output
    torch.testing.assert_close(features_of_places(clip, images).image, whole, **SAME)


def text_bank(model) -> torch.Tensor:
    return model.get_text_features().pooler_output


def test_without_gamma_texts_are_the_same_for_all_images(make, images):
    model = make()
    prompt = model.prompt_layer.prompt
    with torch.no_grad():
        prompt.gamma.zero_()
        outputs, bank = evaluated(model, images), text_bank(model)
        torch.testing.assert_close(outputs.text_embeds, bank.expand(2, -1, -1), **SAME)
        places = prompt.read(model.get_base_model(), images).places
        cosines = torch.einsum("bphw,kp->bkhw", nn.functional.normalize(places, dim=1), normalize(bank))
        torch.testing.assert_close(outputs.score_map, cosines, **SAME)
        prompt.gamma.fill_(1e-4)
        change = (evaluated(model, images).text_embeds - bank).norm() / bank.norm()
        assert 1e-7 < change < 1e-3


def test_without_context_classes_are_read_as_bare_names(make, tokenizer):
    model, clip = make(n_ctx=0), make_clip().double()
    given = tokenizer(NAMES, padding=True, return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(text_bank(model), clip.get_text_features(**given).pooler_output, **SAME)


def test_contexts_stand_before_the_name_and_nothing_follows_it(make, tokenizer):
    [prompt] = make().prompt_layer.prompt.sequences(["tall tree"]).ids
    vectors = [49408, 49409, 49410]
    assert list(prompt) == [49406, *vectors, *tokenizer("tall tree")["input_ids"][1:-1], 49407]


def test_all_that_is_learned_has_a_gradient_at_the_start(make, images, labels):
    """The decoder's is small as gamma is; the text tower's weights have none."""
    for head in ("semantic_fpn", "segformer", "upernet"):
        model = make(perturbed=False, head=head, **STILL).train()
        model(pixel_values=images, labels=labels).loss.backward()
        learned = dict(model.prompt_layer.prompt.named_parameters())
        assert {name for name, weight in learned.items() if weight.grad is None or not weight.grad.any()} == set()
        assert learned["decoder.out_proj.1.weight"].grad.abs().max() < learned["gamma"].grad.abs().max()
        frozen = [name for name, weight in model.named_parameters() if "learned_prompts" not in name]
        assert all(model.get_parameter(name).grad is None for name in frozen)


def test_a_frozen_vision_tower_has_no_graph(make, images):
    model = make().train()
    places = model.prompt_layer.prompt.read(model.get_base_model(), images)
    assert not places.places.requires_grad
    assert not any(each.requires_grad for each in places.maps)
    assert not any(module.training for module in model.get_base_model().vision_model.modules())


def test_classes_have_no_order_and_know_each_other(make, images):
    order = [2, 0, 1]
    model = make(head="none")
    outputs = evaluated(model, images)
    model.set_classes([NAMES[index] for index in order])
    assert model.class_names == ["car", "sky", "tree"]
    shuffled = evaluated(model, images)
    torch.testing.assert_close(shuffled.text_embeds, outputs.text_embeds[:, order], **SAME)
    torch.testing.assert_close(shuffled.logits, outputs.logits[:, order], **SAME)
    model.set_classes(NAMES[:2])
    fewer = evaluated(model, images)
    assert (fewer.text_embeds - outputs.text_embeds[:, :2]).abs().max() > 1e-6


def test_a_head_has_its_own_classes(make):
    model = make()
    with pytest.raises(ValueError, match=r"a 'semantic_fpn' head, with weights of its own .* none for \['car'\]"):
        model.set_classes(["car"])
    assert model.class_names == NAMES
    model.set_classes(NAMES)


def test_texts_are_computed_once_in_evaluation(make, images):
    model, calls = make(), []
    layer = model.get_base_model().text_model.encoder.layers[0]
    run = type(layer).forward
    layer.__class__ = type("Counted", (type(layer),), {"forward": lambda *a, **k: calls.append(1) or run(*a, **k)})
    type(layer).__module__ = "transformers.counted"
    first = evaluated(model, images)
    before = len(calls)
    assert before > 0
    assert torch.equal(evaluated(model, images).logits, first.logits)
    assert len(calls) == before
    with torch.no_grad():
        model.prompt_layer.prompt.ctx.add_(1)
    assert not torch.equal(evaluated(model, images).logits, first.logits)
    assert len(calls) == 2 * before


def xor_images(count, random):
    """Places of two kinds, and an image of one of two signs; a place's class is 1 where these differ."""
    kinds, signs = torch.randn(2, 40, generator=world(0)), torch.randn(40, generator=world(1))
    of_place = torch.randint(2, (count, 4, 4), generator=random)
    of_image = torch.randint(2, (count,), generator=random)
    places = kinds[of_place].movedim(-1, 1) + 0.1 * torch.randn(count, 40, 4, 4, generator=random)
    image = (2 * of_image[:, None] - 1) * signs
    return PlaceFeatures((), image, places), of_place ^ of_image[:, None, None]


def world(seed):
    return torch.Generator().manual_seed(100 + seed)


@pytest.mark.parametrize(("conditioned", "steps", "least", "most"), [(False, 60, 0.4, 0.6), (True, 400, 0.97, 1.0)])
def test_what_is_at_a_place_depends_on_the_image(config, conditioned, steps, least, most):
    """Contexts alone cannot tell the classes apart, however they are trained; with gamma and decoder they can."""
    torch.manual_seed(0)
    names = ["sky", "tree"]
    model = get_peft_model(make_clip(), config(head="none", class_names=names, n_ctx=4, **STILL)).train()
    prompt, random = model.prompt_layer.prompt, torch.Generator().manual_seed(7)
    if not conditioned:
        prompt.gamma.data.zero_()
        prompt.gamma.requires_grad_(False)
    optimizer = torch.optim.AdamW([weight for weight in prompt.parameters() if weight.requires_grad], lr=3e-3)
    for _ in range(steps):
        places, labels = xor_images(16, random)
        logits, *_ = prompt.segment(places, text_bank(model))
        loss = nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.02:
            break
    places, labels = xor_images(256, random)
    with torch.no_grad():
        logits, *_ = prompt.segment(places, text_bank(model))
    assert least <= (logits.argmax(1) == labels).float().mean() <= most
