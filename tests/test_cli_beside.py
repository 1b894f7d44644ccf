"""The command line loads what was saved with a prompt: without its LoRA, a prompt gives other numbers."""

import argparse
import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image

from peft_coop import CoOpConfig, demo
from peft_coop.cli.loading import load_adapter
from peft_coop.cli.main import main
from peft_coop.evaluation import pretrained


@pytest.fixture
def make_saved(tmp_path):
    """A model with both, and the folder of the prompt, of the LoRA."""

    def make(prompt="default", lora="style"):
        torch.manual_seed(0)
        model = get_peft_model(demo.load_clip(), CoOpConfig(n_ctx=4, class_names=["zero", "one", "two"]), prompt)
        settings = {"target_modules": ["q_proj", "visual_projection"], "init_lora_weights": False}
        model.add_adapter(lora, LoraConfig(**settings))
        folder = tmp_path / "adapters"
        model.eval().save_pretrained(folder)
        places = [folder if name == "default" else folder / name for name in (prompt, lora)]
        return model, *places

    return make


@pytest.mark.parametrize(("prompt", "lora"), [("default", "style"), ("prompt", "default")])
def test_predict_loads_the_lora(make_saved, tmp_path, capsys, prompt, lora):
    model, folder, place = make_saved(prompt, lora)
    image = Image.new("RGB", (48, 48), "white")
    image.paste("black", (10, 10, 20, 40))
    image.save(tmp_path / "0.png")
    assert main(["predict", str(tmp_path / "0.png"), "--adapter", str(folder), "--json"]) == 0
    captured = capsys.readouterr()
    assert f"with the adapter in {place}, which was saved with the prompt" in captured.err
    printed = json.loads(captured.out)
    pixel_values = demo.load_processor()(images=image, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        expected = model(pixel_values=pixel_values).logits.softmax(-1)[0]
        model.delete_adapter(lora)
        alone = model(pixel_values=pixel_values).logits.softmax(-1)[0]
    assert (expected - alone).abs().max() > 0.01
    [score] = [value for value in scores_of(printed) if value == pytest.approx(expected.max().item(), abs=1e-3)]
    assert score != pytest.approx(alone.max().item(), abs=1e-3)


def scores_of(value):
    """All numbers of a JSON value."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for each in value for number in scores_of(each)]
    return [value] if isinstance(value, float) else []


def test_two_loras_are_not_guessed(make_saved, tmp_path, capsys):
    model, folder, _ = make_saved()
    model.add_adapter("other", LoraConfig(target_modules=["q_proj"]))
    model.save_pretrained(folder)
    Image.new("RGB", (48, 48), "white").save(tmp_path / "0.png")
    assert main(["predict", str(tmp_path / "0.png"), "--adapter", str(folder)]) != 0
    assert "both are of one method" in capsys.readouterr().err


def test_the_base_model_is_of_the_revision_that_the_adapter_was_learned_for(make_saved, monkeypatch):
    """Unless another model is given."""
    _, folder, _ = make_saved()
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"revision": "v2"}))
    asked = []
    for each in (pretrained.AutoModel, pretrained.AutoProcessor):

        def from_pretrained(name, revision, load=each.from_pretrained, **settings):
            asked.append(revision)
            return load(name, **settings)

        monkeypatch.setattr(each, "from_pretrained", from_pretrained)
    options = argparse.Namespace(model=None, device="cpu", dtype=None, eval_batch_size=None)
    load_adapter(str(folder), options)
    assert asked == ["v2", "v2"]
    options.model = "demo"
    load_adapter(str(folder), options)
    assert asked[2:] == [None, None]
