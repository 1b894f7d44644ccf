"""Runs the original's own training, and records what it saw and computed. A process of its own.

python original.py '{"coop": …, "dassl": …, "site": …, "clip": …, "data": …, "trainer": …, "config": …, …}' RECORD.pt
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import json
import sys
import tempfile
import types
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import torch


def stand_in(name: str, **attributes: Any) -> None:
    """A module in the place of one that is not needed here."""
    module = types.ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    vars(module).update(attributes)
    sys.modules[name] = module


def patch_imports(site: str, coop: str, dassl: str) -> None:
    """Make the original importable without CUDA, with torchvision's transforms and nothing else of it."""
    sys.path[:0] = [coop, dassl]
    sys.path.append(site)
    # Its compiled part belongs to one build of torch; the transforms are plain Python.
    stand_in("torchvision", __path__=[str(Path(site) / "torchvision")], __version__="0", _HAS_OPS=False)
    stand_in("torchvision.extension", _HAS_OPS=False)
    stand_in("torchvision.models", resnet18=None)
    stand_in("torchvision.datasets", STL10=None, SVHN=None, CIFAR10=None, CIFAR100=None)
    stand_in("wilds", get_dataset=None)
    stand_in("gdown", download=None)
    stand_in("torch.utils.tensorboard", SummaryWriter=MagicMock())
    # Newer releases of torch dropped an argument of schedulers that only printed.
    scheduler = torch.optim.lr_scheduler.LRScheduler
    first = scheduler.__init__
    scheduler.__init__ = lambda self, optimizer, last_epoch=-1, verbose=False: first(self, optimizer, last_epoch)


def build(settings: dict[str, Any], output: str) -> Any:
    """The original's trainer, with the configuration that its scripts name."""
    patch_imports(settings["site"], settings["coop"], settings["dassl"])
    import train
    import trainers.zsclip
    from clip import clip
    from clip import model as clip_model
    from dassl.engine import build_trainer
    from dassl.utils import set_random_seed

    clip._download = lambda url, root=None: str(Path(settings["clip"]) / "openai.pt")
    if settings.get("exact"):
        clip_model.convert_weights = lambda model: None  # it rounds the weights to half precision
    if settings.get("float32"):
        load = trainers.zsclip.load_clip_to_cpu
        trainers.zsclip.load_clip_to_cpu = lambda config: load(config).float()
    configs = Path(settings["coop"]) / "configs"
    method = "CoCoOp" if settings["trainer"] == "CoCoOp" else "CoOp"
    options = dict.fromkeys(("resume", "source_domains", "target_domains", "transforms", "backbone", "head"), "")
    options |= {"root": settings["data"], "output_dir": output, "seed": settings["seed"]}
    options |= {"trainer": settings["trainer"], "config_file": str(configs / "trainers" / method / settings["config"])}
    options["dataset_config_file"] = str(configs / "datasets" / "caltech101.yaml")
    # Learned in float32, without worker processes; all else is as shipped.
    fixed = ["TRAINER.COOP.PREC", "fp32", "TRAINER.COCOOP.PREC", "fp32", "DATALOADER.NUM_WORKERS", 0]
    options["opts"] = [*fixed, "DATASET.NUM_SHOTS", settings["shots"], *settings["opts"]]
    config = train.setup_cfg(types.SimpleNamespace(**options))
    set_random_seed(config.SEED)
    return build_trainer(config)


class Recorder:
    """Keeps the batches, losses, learning rates and gradient norms of a training."""

    def __init__(self, trainer: Any, max_steps: int | None):
        self.trainer, self.max_steps = trainer, max_steps
        self.steps: dict[str, list] = {"img": [], "label": [], "loss": [], "rate": [], "norm": []}
        self._step = trainer.forward_backward
        trainer.forward_backward = self

    def __call__(self, batch: dict[str, Any]) -> dict[str, float]:
        rate = self.trainer.optim.param_groups[0]["lr"]
        summary = self._step(batch)
        gradients = [value.grad.norm() for group in self.trainer.optim.param_groups for value in group["params"]]
        norm = torch.stack(gradients).norm().item()
        for name, value in {"img": batch["img"].clone(), "label": batch["label"].clone(), "rate": rate}.items():
            self.steps[name].append(value)
        self.steps["norm"].append(norm)
        self.steps["loss"].append(summary["loss"])
        if len(self.steps["loss"]) == self.max_steps:
            raise StopIteration
        return summary


def learnable(trainer: Any) -> dict[str, torch.Tensor]:
    """What is learned, by the original's names; nothing for zero-shot."""
    learner = getattr(getattr(trainer, "model", None), "prompt_learner", None)
    return {} if learner is None else {name: value.detach().clone() for name, value in learner.named_parameters()}


@torch.no_grad()
def classify(trainer: Any) -> dict[str, torch.Tensor]:
    """Pictures, logits and labels of the test images, as the original prepares and classifies them."""
    if learnable(trainer):
        trainer.set_model_mode("eval")
    parts = [(batch["img"], trainer.model_inference(batch["img"]), batch["label"]) for batch in trainer.test_loader]
    images, logits, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    return {"images": images, "logits": logits, "labels": labels}


def main(settings: dict[str, Any], path: str) -> None:
    with tempfile.TemporaryDirectory() as output:
        trainer = build(settings, output)
        record: dict[str, Any] = {"start": learnable(trainer)}
        record["train_files"] = [item.impath for item in trainer.dm.dataset.train_x]
        record["val_files"] = [item.impath for item in trainer.dm.dataset.val]
        if "batches" in settings:
            trainer.train_loader_x = torch.load(settings["batches"], weights_only=True)
        if record["start"]:
            recorder = Recorder(trainer, settings["max_steps"])
            with contextlib.suppress(StopIteration):
                trainer.train()
            record |= {"steps": recorder.steps, "final": learnable(trainer)}
        torch.save(record | {"test": classify(trainer)}, path)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
