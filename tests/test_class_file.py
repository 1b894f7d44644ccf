"""The matrix of class features as a file: read by the code of docs/deployment.md in a process that has no torch."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_clip
from method_kinds import small_config
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.numpy import load_file

from peft_coop import CoCoOpConfig, CoOpConfig
from peft_coop.export import image_fingerprint
from peft_coop.methods import METHODS

NAMES = ["Katze", "犬", "missile", "missile"]
PAGE = Path(__file__).parents[1] / "docs" / "deployment.md"
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["peft_coop"] = sys.modules["transformers"] = None
{snippet}
names, *matrix = load_classes({path!r})
np.save({out!r}, classify(np.load({images!r}), *matrix))
print(json.dumps(names))
"""

pytestmark = pytest.mark.filterwarnings("ignore:.*missile.*:UserWarning")


@pytest.fixture
def make_model(tokenizer_path):
    def make(method="coop", names=NAMES, **settings):
        settings |= {"tokenizer_name_or_path": tokenizer_path, "class_names": list(names)}
        model = get_peft_model(make_clip(), small_config(method, **settings)).double().eval()
        with torch.no_grad():
            for weight in model.prompt_layer.prompt.parameters():
                weight.normal_(std=0.3, generator=torch.Generator().manual_seed(2))
        return model

    return make


@pytest.fixture
def model(make_model):
    return make_model()


@pytest.fixture
def images(pixel_values):
    return pixel_values.double()


def draw_lora(model, *targets):
    """Put in a LoRA that counts."""
    model.add_adapter("lora", LoraConfig(r=2, target_modules=list(targets), init_lora_weights=False))
    model.double()
    return model.eval()


def matrix_logits(path, features):
    tensors = load_file(path)
    image_embeds = features / np.linalg.norm(features, axis=-1, keepdims=True)
    return tensors["scale"] * image_embeds @ tensors["class_embeds"].T + tensors.get("bias", 0)


@torch.no_grad()
def features_of(clip, images):
    return clip.get_image_features(images).pooler_output.numpy()


def test_numpy_alone_gives_the_models_logits(model, images, tmp_path):
    page = PAGE.read_text(encoding="utf-8")
    snippet = next(code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "load_classes" in code)
    path, out, given = (str(tmp_path / name) for name in ("classes.safetensors", "logits.npy", "images.npy"))
    model.export_classes(path)
    np.save(given, features_of(make_clip().double(), images))
    code = WITHOUT_TORCH.format(snippet=snippet, path=path, out=out, images=given)
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == NAMES
    with torch.no_grad():
        np.testing.assert_allclose(np.load(out), model(pixel_values=images).logits.numpy(), rtol=0, atol=1e-9)


def test_what_is_in_the_file(model, tmp_path):
    path = tmp_path / "new folder" / "classes.safetensors"
    model.export_classes(path)
    with safe_open(path, framework="numpy") as file:
        told = file.metadata()
    tensors = load_file(path)
    assert {name: tensor.shape for name, tensor in tensors.items()} == {"class_embeds": (4, 40), "scale": (1,)}
    np.testing.assert_allclose(np.linalg.norm(tensors["class_embeds"], axis=-1), 1, rtol=0, atol=1e-12)
    assert told.pop("image_fingerprint") == image_fingerprint(make_clip().double())
    assert json.loads(told.pop("class_names")) == NAMES
    assert told == {
        "other_names": "[]",
        "calibration_temperature": "1.0",
        "min_probability": "null",
        "problem_type": "single_label_classification",
        "format": "peft_coop.classes",
        "version": "1",
        "family": "clip",
        "method": "coop",
        "base_model": "",
    }


def test_a_model_from_the_hub_is_named_and_a_folder_is_not(model, tmp_path):
    for name, told in (("openai/clip-vit-base-patch16", "openai/clip-vit-base-patch16"), (str(tmp_path), "")):
        model.get_base_model().name_or_path = name
        model.export_classes(tmp_path / "classes.safetensors")
        with safe_open(tmp_path / "classes.safetensors", framework="numpy") as file:
            assert file.metadata()["base_model"] == told


def test_float32_and_bfloat16_are_written_in_float32(model, tmp_path):
    for dtype in (torch.float32, torch.bfloat16):
        model.to(dtype).export_classes(tmp_path / "classes.safetensors")
        assert load_file(tmp_path / "classes.safetensors")["class_embeds"].dtype == np.float32


def test_a_disabled_adapter_is_zero_shot(model, images, tmp_path):
    with model.disable_adapter():
        model.export_classes(tmp_path / "classes.safetensors")
        expected = model(pixel_values=images).logits.detach().numpy()
    given = matrix_logits(tmp_path / "classes.safetensors", features_of(make_clip().double(), images))
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-9)
    assert np.abs(expected - model(pixel_values=images).logits.detach().numpy()).max() > 0.1


@pytest.mark.parametrize("merged", [False, True])
def test_a_lora_of_the_text_side_counts_merged_or_not(model, images, merged, tmp_path):
    before = model(pixel_values=images).logits.detach().numpy()
    draw_lora(model, "text_projection", "text_model.encoder.layers.0.self_attn.q_proj")
    if merged:
        model.merge_adapter(["lora"])
    model.export_classes(tmp_path / "classes.safetensors")
    expected = model(pixel_values=images).logits.detach().numpy()
    given = matrix_logits(tmp_path / "classes.safetensors", features_of(make_clip().double(), images))
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-9)
    assert np.abs(expected - before).max() > 0.1


def test_what_drops_out_in_training_is_there(tokenizer_path, tmp_path):
    """The model's mode, and that of each of its modules, is what it was."""
    torch.manual_seed(0)
    config = CoOpConfig(class_names=NAMES, n_ctx=4, tokenizer_name_or_path=tokenizer_path)
    model = get_peft_model(make_clip(), config)
    model.add_adapter(
        "lora", LoraConfig(r=2, target_modules=["text_projection"], init_lora_weights=False, lora_dropout=0.9)
    )
    model.train()
    modes = [module.training for module in model.modules()]
    assert {True, False} == set(modes)
    for name in ("first", "second"):
        model.export_classes(tmp_path / name)
    assert [module.training for module in model.modules()] == modes
    model.eval().export_classes(tmp_path / "third")
    first, second, third = (load_file(tmp_path / name)["class_embeds"] for name in ("first", "second", "third"))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, third)


def test_classes_that_depend_on_the_image_are_refused(make_model, tmp_path):
    model = make_model("cocoop")
    with pytest.raises(ValueError, match="CoCoOpPrompt reads them anew for each image, so they are no fixed matrix"):
        model.export_classes(tmp_path / "classes.safetensors")
    assert not list(tmp_path.iterdir())
    with model.disable_adapter():
        model.export_classes(tmp_path / "classes.safetensors")


def test_what_the_adapter_decides_by_is_in_the_file(make_model, images, tmp_path):
    """Rows of other names follow those of the classes; logits are at the temperature."""
    decision = {"calibration_temperature": 2.5, "min_probability": 0.4, "other_names": ["Hund", "car"]}
    model = make_model(**decision)
    model.export_classes(tmp_path / "classes.safetensors")
    with safe_open(tmp_path / "classes.safetensors", framework="numpy") as file:
        told = file.metadata()
    assert json.loads(told["class_names"]) == NAMES
    assert {name: json.loads(told[name]) for name in decision} == decision
    given = matrix_logits(tmp_path / "classes.safetensors", features_of(make_clip().double(), images))
    expected = make_model(names=[*NAMES, "Hund", "car"])(pixel_values=images).logits / 2.5
    np.testing.assert_allclose(given, expected.detach().numpy(), rtol=0, atol=1e-9)
    with model.disable_adapter():
        model.export_classes(tmp_path / "zero-shot.safetensors")
        zero_shot = model(pixel_values=images).logits.detach().numpy()
    given = matrix_logits(tmp_path / "zero-shot.safetensors", features_of(make_clip().double(), images))
    np.testing.assert_allclose(given, zero_shot, rtol=0, atol=1e-9)


def test_other_names_need_a_prompt_that_can_have_them(make_model):
    with pytest.raises(ValueError, match="class-specific"):
        make_model(class_specific_context=True, other_names=["Hund"])


def test_a_head_that_makes_something_else_of_cosines_is_refused(make_model, monkeypatch, tmp_path):
    model = make_model()
    head = model.prompt_layer.prompt.task_head
    compare = head.compare

    def squared(*given):
        outputs = compare(*given)
        outputs.logits = outputs.logits**2
        return outputs

    monkeypatch.setattr(type(head), "compare", lambda self, *given: squared(*given))
    with pytest.raises(
        ValueError, match="The head of CoOpPrompt makes other logits of cosines than a factor and a sum"
    ):
        model.export_classes(tmp_path / "classes.safetensors")


def test_another_task_is_refused(make_model, tmp_path):
    model = make_model("video_prompt", n_prefix=2, n_suffix=2, temporal_layers=0)
    for export in (lambda: model.export_classes(tmp_path / "classes.safetensors"), model.to_classifier):
        with pytest.raises(
            ValueError, match=r"its task is VIDEO_CLS, and that is for IMAGE_CLS\. .*`peft-coop export --format onnx`"
        ):
            export()


@pytest.mark.parametrize("method", [key for key, method in METHODS.items() if method.config().changes_vision])
def test_prompts_in_the_vision_tower_are_refused(make_model, method, tmp_path):
    model = make_model(method)
    with pytest.raises(ValueError, match=r"has learned prompts in its vision tower: .* `to_classifier\(\)` takes"):
        model.export_classes(tmp_path / "classes.safetensors")
    with model.disable_adapter():
        model.export_classes(tmp_path / "classes.safetensors")


def test_other_adapters_of_the_image_side_are_refused_unless_they_are_off(make_model, tmp_path):
    model = draw_lora(make_model(), "visual_projection", "text_projection")
    path = tmp_path / "classes.safetensors"
    with pytest.raises(ValueError, match="has adapter 'lora' in its vision tower: images encoded elsewhere"):
        model.export_classes(path)
    with model.disable_adapter():
        model.export_classes(path)
    model.merge_adapter(["lora"])
    with pytest.raises(ValueError, match="has adapter 'lora', merged into its vision tower"):
        model.export_classes(path)
    model = make_model(modules_to_save=["visual_projection"])
    with pytest.raises(ValueError, match=r"has the modules of adapter 'default' \(`modules_to_save`\)"):
        model.export_classes(path)


@pytest.mark.parametrize(("bias", "target"), [("all", "text_projection"), ("lora_only", "fc1")])
def test_trained_biases_of_the_image_side_are_refused_also_where_the_adapter_is_off(make_model, bias, target, tmp_path):
    model = make_model()
    model.add_adapter("lora", LoraConfig(r=2, target_modules=[target], bias=bias))
    with model.disable_adapter(), pytest.raises(ValueError, match="has biases that adapter 'lora' has trained"):
        model.export_classes(tmp_path / "classes.safetensors")


def test_biases_of_the_text_side_alone_are_no_hindrance(make_model, tmp_path):
    model = make_model()
    targets = ["text_model.encoder.layers.0.mlp.fc1"]
    model.add_adapter("lora", LoraConfig(r=2, target_modules=targets, bias="lora_only"))
    model.export_classes(tmp_path / "classes.safetensors")
    assert load_file(tmp_path / "classes.safetensors")["class_embeds"].shape == (4, 40)


def test_without_classes_there_is_nothing_to_write(tokenizer_path, tmp_path):
    model = get_peft_model(make_clip(), CoOpConfig(n_ctx=4, tokenizer_name_or_path=tokenizer_path))
    with pytest.raises(ValueError, match="Adapter 'default' has no classes"):
        model.export_classes(tmp_path / "classes.safetensors")


def test_a_fingerprint_is_of_the_image_side_alone(tokenizer_path):
    clip = make_clip()
    first = image_fingerprint(clip)
    with torch.no_grad():
        clip.text_projection.weight.add_(1)
        clip.logit_scale.add_(1)
    assert image_fingerprint(clip) == first
    model = get_peft_model(clip, CoCoOpConfig(class_names=NAMES, n_ctx=4, tokenizer_name_or_path=tokenizer_path))
    assert image_fingerprint(model) == first
    with torch.no_grad():
        clip.vision_model.encoder.layers[0].mlp.fc1.bias[0] += 1
    assert image_fingerprint(clip) != first
