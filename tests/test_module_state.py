"""The key of everything that is kept of a module's output. What the text side keeps: test_text_cache.py."""

import gc

import pytest
import torch
from conftest import make_clip
from datasets import Dataset, Features, Image, Value
from peft import LoraConfig, get_peft_model
from PIL import Image as Picture
from torch import nn
from torch.nn.modules.module import register_module_forward_hook
from transformers import CLIPImageProcessor

from peft_coop.data import with_image_embeds
from peft_coop.module_state import module_settings, module_state


def test_equal_as_long_as_nothing_changes():
    layers = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    state = module_state(layers)
    assert state is not None
    assert state == module_state(layers)
    layers[1].running_mean.add_(1)
    assert state != module_state(layers)


def test_no_later_weight_gets_the_identity_of_one_that_is_gone():
    layer = nn.Linear(2, 3)
    state = module_state(layer)
    for _ in range(20):
        layer.weight = nn.Parameter(torch.ones(3, 2))
        gc.collect(0)  # what has just gone is of the youngest
        assert state != module_state(layer)


def test_a_compiled_step_of_an_optimizer_counts():
    layer = nn.Linear(3, 3)
    before = module_state(layer)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(torch.ones(1, 3)).sum().backward()
    torch.compile(optimizer.step, backend="eager")()
    assert module_state(layer) != before


def test_weights_may_be_swapped():
    layer, other = nn.Linear(2, 3), nn.Linear(2, 3)
    before = module_state(layer)
    torch.utils.swap_tensors(layer.weight, other.weight)
    assert module_state(layer) != before


@pytest.mark.parametrize(
    "change", [("layer_norm1", "eps", 10.0), ("self_attn", "scale", 3.0)], ids=lambda given: given[1]
)
def test_numbers_beside_the_weights_count(change):
    layer = make_clip().text_model.encoder.layers[0]
    before = module_state(layer)
    path, name, value = change
    setattr(layer.get_submodule(path), name, value)
    assert module_state(layer) != before


def test_what_is_not_called_has_no_part():
    clip = make_clip()
    state = module_state(clip.text_projection)
    with torch.no_grad():
        clip.visual_projection.weight.mul_(2)
    assert state == module_state(clip.text_projection)


def test_unknown_while_a_hook_is_on_every_module():
    layer = nn.Linear(2, 3)
    handle = register_module_forward_hook(lambda *given: None)
    try:
        assert module_state(layer) is None
    finally:
        handle.remove()
    assert module_state(layer) is not None


def test_weights_of_inference_mode_have_no_version():
    with torch.inference_mode():
        layer = nn.Linear(2, 3)
    assert module_state(layer) is None


@pytest.fixture
def images():
    rows = [Picture.new("RGB", (16, 16), (40 * index, 0, 0)) for index in range(3)]
    return Dataset.from_dict(
        {"image": rows, "label": [0, 1, 0]}, features=Features({"image": Image(), "label": Value("int64")})
    )


def test_image_features_follow_a_loras_state(images):
    processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    model = get_peft_model(make_clip(), LoraConfig(target_modules=["visual_projection"], init_lora_weights=False))

    def embeds():
        return torch.tensor(with_image_embeds(images, model, processor)["image_embeds"][:])

    enabled = embeds()
    with model.disable_adapter():
        disabled = embeds()
    assert (enabled - disabled).abs().max() > 1e-3
    torch.testing.assert_close(embeds(), enabled)


def test_image_features_of_a_tower_with_hooks_are_computed_anew(images):
    processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    clip = make_clip()
    factor = [1.0]
    clip.visual_projection.register_forward_hook(lambda module, given, output: output * factor[0])
    first = torch.tensor(with_image_embeds(images, clip, processor)["image_embeds"][:])
    factor[0] = 3.0
    second = torch.tensor(with_image_embeds(images, clip, processor)["image_embeds"][:])
    torch.testing.assert_close(second, 3 * first)


def test_settings_are_the_same_for_equal_modules():
    config = LoraConfig(target_modules=["visual_projection"])
    one, other = (get_peft_model(make_clip(), config).get_base_model().visual_projection for _ in range(2))
    assert module_settings(one) == module_settings(other) is not None
    other.scale_layer(2.0)
    assert module_settings(one) != module_settings(other)
