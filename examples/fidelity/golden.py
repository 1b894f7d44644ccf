"""Train the tests' tiny CLIP with the original's code: what `tests/golden/training.safetensors` holds.

python golden.py --coop CoOp --dassl Dassl.pytorch --images CIFAR-10-images --site SITE
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from compare import CASES, add_paths, run_original
from inputs import lay_out_photographs, openai_names
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel

GOLDEN = Path(__file__).parents[2] / "tests" / "golden"
# Each with the number of vectors and epochs that keep the file small.
KEYS = {"CoOp, end": "end", "CoOp, middle": "middle", "CoOp, front": "front", "CoOp, class-specific": "class-specific"}
KEYS |= {"CoCoOp": "cocoop"}
SETTINGS = ["INPUT.SIZE", [32, 32], "TRAINER.COOP.N_CTX", 4]


def tiny_clip(settings: dict, tensors: dict[str, torch.Tensor]) -> CLIPModel:
    """The CLIP of the golden numbers, with the logit scale of the published models."""
    model = CLIPModel(CLIPConfig(**settings["clip_config"]))
    weights = {name.removeprefix("clip/"): value for name, value in tensors.items() if name.startswith("clip/")}
    model.load_state_dict(weights, strict=False)
    with torch.no_grad():
        model.text_model.embeddings.token_embedding.weight[tensors["token_ids"]] = tensors["token_embedding_rows"]
        model.logit_scale.fill_(math.log(100))
    return model


def batches_of(tensors: dict[str, torch.Tensor], size: int) -> list[dict[str, torch.Tensor]]:
    parts = zip(tensors["pixel_values"].split(size), tensors["labels"].split(size), strict=True)
    return [{"img": images, "label": labels} for images, labels in parts]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_paths(parser)
    args = parser.parse_args()
    settings, tensors = json.loads((GOLDEN / "golden.json").read_text()), load_file(GOLDEN / "golden.safetensors")
    golden: dict[str, torch.Tensor] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        lay_out_photographs(args.images, folder / "data", settings["class_names"])
        (folder / "clip").mkdir()
        torch.save(openai_names(tiny_clip(settings, tensors).state_dict()), folder / "clip" / "openai.pt")
        for case in CASES:
            if case.name not in KEYS:
                continue
            key, conditional = KEYS[case.name], case.trainer == "CoCoOp"
            torch.save(batches_of(tensors, 1 if conditional else 6), folder / "batches.pt")
            epochs = ["OPTIM.MAX_EPOCH", 2 if conditional else 10]
            changed = replace(case, opts=[*case.opts, *SETTINGS, *epochs])
            record = run_original(args, changed, folder, batches=str(folder / "batches.pt"), exact=True)
            golden |= {f"{key}/start.{name}": value for name, value in record["start"].items()}
            golden |= {f"{key}/final.{name}": value for name, value in record["final"].items()}
            for name, kept in {"losses": "loss", "norms": "norm", "rates": "rate"}.items():
                golden[f"{key}/{name}"] = torch.tensor(record["steps"][kept], dtype=torch.float64)
            print(key, golden[f"{key}/losses"].tolist(), golden[f"{key}/norms"].tolist())
    save_file(golden, GOLDEN / "training.safetensors")


if __name__ == "__main__":
    main()
