"""Adapters that version 0.1.0 saved, one of each kind: they load in every later version, with the same logits.

Their base model is the tiny CLIP of the golden numbers. The files in `saved_adapters` are never written again.
"""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel

SAVED = Path(__file__).parent / "saved_adapters"
EXPECTED = json.loads((SAVED / "expected.json").read_text())


def test_there_are_adapters():
    assert len(EXPECTED) == 8
    assert {path.name for path in SAVED.iterdir() if path.is_dir()} == set(EXPECTED)


@pytest.mark.parametrize("kind", EXPECTED)
def test_a_saved_adapter_loads(kind, golden, golden_clip, tokenizer_path):
    golden_clip.name_or_path = tokenizer_path
    model = PeftModel.from_pretrained(golden_clip, SAVED / kind)
    assert model.class_names == golden["class_names"]
    with torch.no_grad():
        learned = model(pixel_values=golden["tensors"]["pixel_values"]).logits
        with model.disable_adapter():
            zero_shot = model(pixel_values=golden["tensors"]["pixel_values"]).logits
    torch.testing.assert_close(learned, torch.tensor(EXPECTED[kind]["logits"]), atol=1e-3, rtol=0)
    torch.testing.assert_close(zero_shot, torch.tensor(EXPECTED[kind]["zero_shot_logits"]), atol=1e-3, rtol=0)
