"""What a vision tower makes of every place of an image."""

import pickle
from copy import deepcopy

import pytest
import tiny_families
import torch
from conftest import make_clip
from golden_cases import golden_case, golden_model
from peft import LoraConfig, get_peft_model

from peft_coop.heads.dense import Pyramid
from peft_coop.towers import FAMILIES, close_vision_tower, features_of_places, open_vision_tower

CLOSE = {"atol": 2e-5, "rtol": 0}
SAME = {"atol": 1e-9, "rtol": 1e-9}
WITH_PLACES = {"clip", "metaclip_2", "clipseg", "owlvit", "owlv2", "chinese_clip", "altclip"}
WITH_PLACES |= {"vision-text-dual-encoder.roberta-clip"}


@pytest.mark.parametrize("key", ["case0", "case1"])
def test_the_originals_numbers(key):
    """With its two quirks, in float64, through the pyramid."""
    case = golden_case("denseclip", key)
    clip = golden_model(case).double()
    if "class_embedding" in case.tensors:
        clip.vision_model.embeddings.class_embedding.data.copy_(case.tensors["class_embedding"])
    pixel_values = case.tensors["pixel_values"].double()
    with torch.no_grad():
        found = features_of_places(clip, pixel_values, case.out_indices, reference_quirks=True)
        torch.testing.assert_close(found.image, case.tensors["eval.global_embed"].double(), **CLOSE)
        torch.testing.assert_close(found.places, case.tensors["eval.dense_embed"].double(), **CLOSE)
        pyramid = Pyramid(64)
        tensors = {key: value for key, value in case.all.items() if key.startswith("model/backbone.")}
        pyramid.load_state_dict({key.removeprefix("model/backbone."): value for key, value in tensors.items()}, False)
        for level, each in enumerate(pyramid.double().eval()(found.maps)):
            torch.testing.assert_close(each, case.tensors[f"eval.pyramid{level}"].double(), **CLOSE)
        # Without them it is the model's own reading; another one where there is a class embedding or another size.
        plain = features_of_places(clip, pixel_values, case.out_indices)
        own = clip.get_image_features(pixel_values, interpolate_pos_encoding=True).pooler_output
    torch.testing.assert_close(plain.image, own, **SAME)
    assert torch.allclose(plain.image, found.image, atol=1e-6) == (key == "case0")


@pytest.mark.parametrize("key", [key for key, each in tiny_families.FAMILIES.items() if each.model_type in FAMILIES])
def test_families(key):
    """The first token's feature is the image's; hidden states are those of the layers asked for."""
    model = tiny_families.FAMILIES[key].make_model().double()
    pixel_values = torch.randn(2, 3, 24, 16, generator=torch.Generator().manual_seed(0)).double()
    if key not in WITH_PLACES:
        with pytest.raises(
            ValueError, match=r"no features for the places of an image: (its|it|accepted) .* Those of CLIP"
        ):
            features_of_places(model, pixel_values)
        return
    with torch.no_grad():
        found = features_of_places(model, pixel_values, (0, 1))
        outputs = model.get_image_features(pixel_values, interpolate_pos_encoding=True, output_hidden_states=True)
    torch.testing.assert_close(found.image, outputs.pooler_output, **SAME)
    assert [tuple(each.shape) for each in found.maps] == [(2, 32, 3, 2)] * 2
    assert found.places.shape == (2, 40, 3, 2)
    torch.testing.assert_close(found.maps[1][:, :, 2, 1], outputs.hidden_states[2][:, 6], **SAME)
    torch.testing.assert_close(found.tokens[:, 5], found.places[:, :, 2, 0], **SAME)


def test_every_family_has_places_or_a_reason():
    assert all(
        (family.place_features is None) == (family.no_place_features is not None) for family in FAMILIES.values()
    )


@pytest.mark.parametrize("size", [(20, 16), (16, 8 * 2 + 1), (0, 16)])
def test_images_that_patches_do_not_fill(clip, size):
    with pytest.raises(ValueError, match=r"multiples of the patches' 8 pixels; got \(1, 3, \d+, \d+\)"):
        features_of_places(clip, torch.zeros(1, 3, *size))


def test_sizes_without_positions_and_layers_that_are_not_there(clip):
    with pytest.raises(ValueError, match="positions for images of 16 x 16 pixels, got 16 x 24: give `interpolate"):
        features_of_places(clip, torch.zeros(1, 3, 16, 24), interpolate_pos_encoding=False)
    assert features_of_places(clip, torch.zeros(1, 3, 16, 16), (1,), interpolate_pos_encoding=False).maps
    with pytest.raises(ValueError, match=r"`out_indices` \[0, 2\] .* its 2 layers count from 0 to 1"):
        features_of_places(clip, torch.zeros(1, 3, 16, 16), [0, 2])


def test_a_frozen_tower_has_no_graph(clip):
    clip.requires_grad_(False)
    pixel_values = torch.zeros(1, 3, 16, 16)
    assert not features_of_places(clip, pixel_values, (0,)).maps[0].requires_grad
    clip.visual_projection.requires_grad_(True)
    assert features_of_places(clip, pixel_values, (0,)).places.requires_grad
    clip.requires_grad_(False)
    assert features_of_places(clip, pixel_values.requires_grad_(), (0,)).places.requires_grad


def test_quirks_are_switched_off_behind_the_call(clip):
    pixel_values = torch.randn(1, 3, 24, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = features_of_places(clip, pixel_values).places
        quirky = features_of_places(clip, pixel_values, reference_quirks=True).places
        assert (quirky - plain).abs().max() > 1e-3
        assert torch.equal(features_of_places(clip, pixel_values).places, plain)
        again = pickle.loads(pickle.dumps(deepcopy(clip)))
        assert torch.equal(features_of_places(again, pixel_values, reference_quirks=True).places, quirky)


def in_training(model, pixel_values, rate):
    torch.manual_seed(0)
    return features_of_places(model.train(), pixel_values, (0, 1), drop_path=rate)


def test_stochastic_depth(clip):
    """Image by image; never in the first layer, not in evaluation, and nothing is left of it behind the call."""
    kinds = {type(module) for module in clip.modules()}
    clip, pixel_values = clip.double(), torch.randn(16, 3, 16, 16).double()
    with torch.no_grad():
        plain = in_training(clip, pixel_values, 0.0)
        dropped = in_training(clip, pixel_values, 0.5)
        torch.testing.assert_close(dropped.maps[0], plain.maps[0], **SAME)
        difference = dropped.maps[1].flatten(1) - plain.maps[1].flatten(1)
        assert difference.abs().amax(dim=1).gt(1e-6).sum() == 16  # kept parts count twice
        only_mlp = plain.maps[0] + 2 * mlp_alone(clip, plain.maps[0])
        neither = torch.isclose(dropped.maps[1], plain.maps[0]).flatten(1).all(1)
        one = torch.isclose(dropped.maps[1], only_mlp, atol=1e-9).flatten(1).all(1)
        assert 0 < neither.sum() < 10
        assert 0 < one.sum() < 10
        clip.eval()
        still = features_of_places(clip, pixel_values, (0, 1), drop_path=0.5)
        torch.testing.assert_close(still.maps[1], plain.maps[1], **SAME)
    open_vision_tower(clip)
    close_vision_tower(clip)
    assert {type(module) for module in clip.modules()} == kinds


def mlp_alone(clip, states):
    """What the last layer's MLP gives for states that attention has added nothing to."""
    layer, tokens = clip.vision_model.encoder.layers[1], states.flatten(2).transpose(1, 2)
    return layer.mlp(layer.layer_norm2(tokens)).transpose(1, 2).unflatten(-1, states.shape[-2:])


@pytest.mark.parametrize("reentrant", [True, False])
def test_stochastic_depth_is_the_same_where_a_layer_is_computed_again(reentrant):
    gradients = []
    for again in (False, True):
        clip, pixel_values = make_clip().double(), torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        if again:
            # Renamed in transformers 5.x.
            enable = getattr(clip, "activation_checkpointing_enable", clip.gradient_checkpointing_enable)
            enable({"use_reentrant": reentrant, "preserve_rng_state": False})
        found = in_training(clip, pixel_values.double(), 0.5)
        found.places.square().sum().backward()
        gradients.append(clip.vision_model.encoder.layers[0].mlp.fc1.weight.grad)
    torch.testing.assert_close(*gradients, **SAME)


def test_stochastic_depth_beside_a_lora(clip):
    model = get_peft_model(clip, LoraConfig(target_modules=["q_proj", "v_proj"])).base_model.model
    pixel_values = torch.randn(8, 3, 16, 16)
    assert not torch.equal(in_training(model, pixel_values, 0.9).places, in_training(model, pixel_values, 0.0).places)
