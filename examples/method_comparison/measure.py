"""One method on one task, measured in a process of its own; the record has the layout of PEFT's method comparison."""

from __future__ import annotations

import platform
import tempfile
import threading
import time
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import psutil
import torch
from experiments import every_method
from safetensors.numpy import load_file

from peft_coop import demo
from peft_coop.data import ImageData, load_data
from peft_coop.evaluation import (
    Classifier,
    FrozenCLIP,
    LabelledImages,
    PromptLearning,
    clip_fingerprint,
    draw_images,
    scores,
)

MODEL = "demo"
PACKAGES = ("transformers", "peft", "datasets", "torch", "peft-coop")
# Seconds between two looks at the memory.
INTERVAL = 0.02


class MemoryLog:
    """Bytes that are in use, beyond those at the start, looked at again and again: of the GPU, or of this process.

    Args:
        device: whose memory.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self._start = self._now()
        self._seen: list[int] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> MemoryLog:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _now(self) -> int:
        if self._device.type == "cuda":
            return torch.cuda.memory_reserved(self._device)
        return psutil.Process().memory_info().rss

    def _look(self) -> None:
        while True:
            self._seen.append(self._now() - self._start)
            if self._ended.wait(INTERVAL):
                break

    def record(self) -> dict[str, int]:
        """As PEFT names it."""
        return {
            "accelerator_memory_reserved_avg": int(np.mean(self._seen)),
            "accelerator_memory_max": max(self._seen),
            "accelerator_memory_reserved_99th": int(np.percentile(self._seen, 99)),
        }


def measure(key: str, data_name: str, num_shots: int, seed: int, device: str, smoke: bool) -> dict[str, Any]:
    """Learn, measure and save; the record of it."""
    torch.set_num_threads(1)
    started, created = time.monotonic(), datetime.now(timezone.utc).replace(microsecond=0).isoformat()
    clip = FrozenCLIP.from_pretrained(MODEL, device)
    data = load_data(f"demo:{data_name}")
    images, method = draw_images(data, num_shots, seed), every_method(smoke)[key]
    steps = method.training_steps(images)
    with tempfile.TemporaryDirectory() as folder:
        datasets.config.HF_DATASETS_CACHE = Path(folder) / "cache"  # nobody has computed these features before
        with MemoryLog(clip.device) as memory:
            clock, computed = time.perf_counter(), time.process_time()
            classifier = method.fit(clip, images, seed, Path(folder) / "training")
            computed, clock = time.process_time() - computed, time.perf_counter() - clock
        classifier.save(Path(folder) / "saved")
        size, num_learned = saved(Path(folder) / "saved")
        metrics = last_metrics(classifier, data, images, steps)
    config = {"model_id": MODEL, "data": data.name, "num_shots": num_shots, "seed": seed, "max_steps": steps}
    if isinstance(method, PromptLearning):
        config |= asdict(method.recipe_for(num_shots))
    total = sum(weight.numel() for weight in clip.model.parameters())
    return {
        "run_info": {
            "created_at": created,
            "total_time": time.monotonic() - started,
            "experiment_name": f"{key}/{data.name}-{num_shots}shots-seed{seed}",
            "peft_branch": None,
            "train_config": {**config, **method.settings()},
            "peft_config": peft_config(classifier),
            "error_msg": "",
        },
        "train_info": {
            **memory.record(),
            "train_time": clock,
            "train_cpu_time": computed,
            "file_size": size,
            "num_trainable_params": num_learned,
            "num_total_params": total + num_learned,
            "status": "success",
            "metrics": [metrics],
        },
        "meta_info": meta_info(clip, data),
    }


def saved(folder: Path) -> tuple[int, int]:
    """Bytes of what was learned, and how many numbers are in them."""
    files = list(folder.glob("*.safetensors"))
    numbers = sum(tensor.size for file in files for tensor in load_file(file).values())
    return sum(file.stat().st_size for file in files), numbers


def last_metrics(classifier: Classifier, data: ImageData, images: LabelledImages, steps: int | None) -> dict[str, Any]:
    """On the test images, and the loss on those that were learned from."""
    measured = scores(classifier.logits(data.test, data.class_names), data.test["label"])
    logits = torch.from_numpy(classifier.logits(images.train, data.class_names))
    loss = torch.nn.functional.cross_entropy(logits, torch.tensor(images.train["label"]))
    return {
        "step": steps,
        "test accuracy": measured["accuracy"],
        "test ece": measured["ece"],
        "train loss": loss.item(),
        "train samples": len(images.train),
    }


def peft_config(classifier: Classifier) -> dict[str, Any] | None:
    """Of the adapter that was learned, without the folder that the model lies in; None where nothing was."""
    model = getattr(classifier, "model", None)
    if model is None:
        return None
    config = model.peft_config["default"].to_dict()
    found = {name: sorted(value) if isinstance(value, set) else value for name, value in config.items()}
    return {name: MODEL if value == demo.MODEL_PATH else value for name, value in found.items()}


def meta_info(clip: FrozenCLIP, data: ImageData) -> dict[str, Any]:
    """What it was measured with."""
    accelerator = torch.cuda.get_device_name(clip.device) if clip.device.type == "cuda" else "none"
    packages = {f"{name}-version": version(name) for name in PACKAGES}
    return {
        "model_info": {"sha": clip_fingerprint(clip), "created_at": None},
        "dataset_info": {data.name: {"sha": None, "created_at": None}},
        "package_info": packages,
        "system_info": {"system": platform.system(), "machine": platform.machine(), "accelerator": accelerator},
        "pytorch_info": f"{torch.get_num_threads()} thread",
    }
