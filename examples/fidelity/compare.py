"""Train with the original's code and with this package's, on the same batches, and print the largest differences.

python compare.py --coop CoOp --dassl Dassl.pytorch --images CIFAR-10-images --site SITE
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import warnings
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inputs import lay_out_photographs, make_small_clip
from peft import get_peft_model
from torch import Tensor
from transformers.utils import logging

from peft_coop.data import ImageData, load_data, prepare_images
from peft_coop.evaluation import (
    FrozenCLIP,
    PromptEnsemble,
    PromptLearning,
    ZeroShot,
    draw_images,
    predict_logits,
    train_prompt,
)

LEARNED = {
    "ctx": "learned_prompts.default.ctx",
    "meta_net.linear1.weight": "learned_prompts.default.meta_net_linear1.weight",
    "meta_net.linear1.bias": "learned_prompts.default.meta_net_linear1.bias",
    "meta_net.linear2.weight": "learned_prompts.default.meta_net_linear2.weight",
    "meta_net.linear2.bias": "learned_prompts.default.meta_net_linear2.bias",
}
NUM_STEPS = 10  # whose losses the table has


@dataclass(frozen=True)
class Case:
    """A training: the original's configuration file and options, and what is given for it here."""

    name: str
    config: str
    context: dict[str, Any]
    opts: list[Any] = field(default_factory=list)
    trainer: str = "CoOp"
    shots: int = 1
    max_steps: int | None = None


def position(where: str, name: str) -> Case:
    context, opts = {"class_token_position": where}, ["TRAINER.COOP.CLASS_TOKEN_POSITION", where]
    return Case(name, "vit_b16_ep50.yaml", context, opts)


WORDS = {"ctx_init": "a photo of a"}
CASES = (
    position("end", "CoOp, end"),
    position("middle", "CoOp, middle"),
    position("front", "CoOp, front"),
    Case("CoOp, class-specific", "vit_b16_ep50.yaml", {"class_specific_context": True}, ["TRAINER.COOP.CSC", True]),
    Case("CoOp, a photo of a", "vit_b16_ep50_ctxv1.yaml", WORDS),
    Case("CoOp, end, 16 shots", "vit_b16.yaml", {}, shots=16, max_steps=20),
    Case("CoCoOp", "vit_b16_c4_ep10_batch1_ctxv1.yaml", {}, trainer="CoCoOp"),
)


class Recorded(torch.utils.data.Dataset):
    """The pictures that the original trained on, one after the other, whatever index is asked for."""

    def __init__(self, steps: dict[str, list], length: int):
        self.length = length
        self.images, self.labels = torch.cat(steps["img"]), torch.cat(steps["label"])
        self.given = 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, Any]:
        here, self.given = self.given, self.given + 1
        return {"pixel_values": self.images[here], "labels": int(self.labels[here])}


def run_original(args: argparse.Namespace, case: Case, folder: Path, **more: Any) -> dict[str, Any]:
    """What the original's training saw and computed."""
    settings = {name: str(getattr(args, name).absolute()) for name in ("coop", "dassl", "site")}
    settings |= {"clip": str(folder / "clip"), "data": str(folder / "data"), "seed": args.seed}
    settings |= {name: getattr(case, name) for name in ("trainer", "config", "shots", "max_steps", "opts")}
    settings |= more
    path, script = folder / "record.pt", Path(__file__).parent / "original.py"
    done = subprocess.run(
        [sys.executable, str(script), json.dumps(settings), str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"The original stopped: {done.stderr[-2000:]}")
    return torch.load(path, weights_only=True)


def run_ours(
    case: Case, clip: FrozenCLIP, data: ImageData, record: dict[str, Any], seed: int, **arguments: Any
) -> tuple[list[float], dict[str, Tensor], Tensor]:
    """Losses, what was learned, and logits of the test images: by the recipe, through the Trainer."""
    method = PromptLearning(case.trainer.lower(), case.context, data=data.name)
    config = method.make_config(class_names=data.class_names, tokenizer_name_or_path=clip.name)
    model = get_peft_model(deepcopy(clip.model), config)
    layer = dict(model.get_base_model().text_model.embeddings.named_parameters())
    learned = {name: layer[LEARNED[name]] for name in record["start"]}
    for name, start in record["start"].items():
        learned[name].data.copy_(start)  # the generators differ
    losses: list[float] = []
    hook = model.register_forward_hook(lambda *call: losses.append(call[-1].loss.item()))
    train = Recorded(record["steps"], len(record["train_files"]))
    if case.max_steps:
        arguments["max_steps"] = case.max_steps
    with tempfile.TemporaryDirectory() as folder:
        recipe = method.recipe_for(case.shots)
        train_prompt(model, train, recipe, seed, Path(folder), train_sampling_strategy="sequential", **arguments)
    hook.remove()
    logits = torch.from_numpy(predict_logits(model, clip.with_image_embeds(data.test)))
    return losses, {name: value.detach() for name, value in learned.items()}, logits


def agreement(ours: Tensor, theirs: Tensor) -> str:
    """On how many images two classifiers say the same."""
    return f"{(ours.argmax(1) == theirs.argmax(1)).sum()} of {len(theirs)}"


def largest(ours: Tensor, theirs: Tensor) -> float:
    return (ours - theirs).abs().max().item()


def compare_training(case: Case, args: argparse.Namespace, folder: Path, clip: FrozenCLIP, data: ImageData) -> str:
    """A line of the table."""
    record = run_original(args, case, folder)
    steps = {name: np.array(record["steps"][name]) for name in ("loss", "norm")}
    losses, learned, logits = run_ours(case, clip, data, record, args.seed)
    difference = np.abs(np.array(losses) - steps["loss"])
    clipped = run_ours(case, clip, data, record, args.seed, max_grad_norm=1.0)[-1]
    theirs = record["test"]["logits"]
    cells = [
        case.name,
        f"{len(losses)}",
        f"{difference[:NUM_STEPS].max():.1e}",
        f"{difference.max():.1e}",
        f"{max(largest(value, record['final'][name]) for name, value in learned.items()):.1e}",
        f"{largest(logits, theirs):.1e}",
        agreement(logits, theirs),
        f"{100 * (steps['norm'] > 1).mean():.0f}%",
        agreement(clipped, theirs),
    ]
    return f"| {' | '.join(cells)} |"


def compare_hand_written(args: argparse.Namespace, folder: Path, clip: FrozenCLIP, data: ImageData) -> None:
    """Pictures, drawn images, zero-shot and ensemble."""
    for trainer, method in {"ZeroshotCLIP": ZeroShot(), "ZeroshotCLIP2": PromptEnsemble()}.items():
        images = draw_images(data, 16, args.seed)
        classifier = method.fit(clip, images, args.seed, folder)
        logits = torch.from_numpy(classifier.logits(data.test, data.class_names))
        for float32 in (False, True):
            case = Case(trainer, "vit_b16.yaml", {}, trainer=trainer, shots=16)
            record = run_original(args, case, folder, float32=float32)
            theirs = record["test"]
            how = "in float32" if float32 else "as shipped, in float16"
            same = agreement(logits, theirs["logits"])
            print(f"{method.name}, {how}: logits {largest(logits, theirs['logits']):.1e}, {same}")
    pictures = prepare_images([row["image"] for row in data.test], clip.processor.image_processor)
    print(f"test pictures: {largest(pictures, theirs['images']):.1e}")
    drawn = {"train": images.train, "val": images.val}
    for split, part in drawn.items():
        paths = [image["path"] for image in undecoded(part)]
        print(f"{split}: the same {len(paths)} images drawn: {paths == record[f'{split}_files']}")


def compare_accuracies(args: argparse.Namespace, folder: Path, clip: FrozenCLIP, data: ImageData) -> None:
    """Whole trainings in which nothing is made equal: first vectors, order and crops are each one's own."""
    case = Case("CoOp, end, 4 shots", "vit_b16_ep100.yaml", {}, shots=4)
    found: dict[str, list[float]] = {"original": [], "here, --augment": [], "here": []}
    for seed in (1, 2, 3):
        record = run_original(argparse.Namespace(**{**vars(args), "seed": seed}), case, folder)["test"]
        found["original"].append(accuracy(record["logits"], record["labels"]))
        for name, augment in {"here, --augment": True, "here": False}.items():
            method = PromptLearning("coop", data=data.name, augment=augment)
            with tempfile.TemporaryDirectory() as place:
                classifier = method.fit(clip, draw_images(data, case.shots, seed), seed, Path(place))
            logits = torch.from_numpy(classifier.logits(data.test, data.class_names))
            found[name].append(accuracy(logits, torch.tensor(list(data.test["label"]))))
    for name, numbers in found.items():
        print(f"{case.name}, {name}: accuracy {100 * np.mean(numbers):.1f} ± {100 * np.std(numbers, ddof=1):.1f}")


def accuracy(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(1) == labels).float().mean().item()


def undecoded(images: Any) -> list[dict[str, Any]]:
    from datasets import Image

    return images.cast_column("image", Image(decode=False))["image"]


def add_paths(parser: argparse.ArgumentParser) -> None:
    """Where the original and the photographs are, and the seed."""
    parser.add_argument("--coop", type=Path, required=True, help="a checkout of KaiyangZhou/CoOp")
    parser.add_argument("--dassl", type=Path, required=True, help="a checkout of KaiyangZhou/Dassl.pytorch")
    parser.add_argument("--site", type=Path, required=True, help="folder of the packages that they need")
    parser.add_argument("--images", type=Path, required=True, help="photographs in train/CLASS and test/CLASS")
    parser.add_argument("--seed", type=int, default=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_paths(parser)
    parser.add_argument("--cases", nargs="+", help="only trainings whose names begin so")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        lay_out_photographs(args.images, folder / "data")
        make_small_clip(args.coop / "clip" / "bpe_simple_vocab_16e6.txt.gz", folder / "clip")
        clip = FrozenCLIP.from_pretrained(str(folder / "clip"))
        data = load_data(f"coop:caltech101@{folder / 'data'}")
        if args.cases is None:
            compare_hand_written(args, folder, clip, data)
            compare_accuracies(args, folder, clip, data)
        print(
            "| training | steps | loss, ten steps | loss, all | learned | logits | predictions | norm > 1 | clipped |"
        )
        print("|---|---|---|---|---|---|---|---|---|")
        for case in CASES:
            if args.cases is None or case.name.startswith(tuple(args.cases)):
                print(compare_training(case, args, folder, clip, data), flush=True)


if __name__ == "__main__":
    main()
