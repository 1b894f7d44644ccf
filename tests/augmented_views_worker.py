"""What `test_augmented_features.py` trains with, and a training in one of several processes: `… FOLDER`.

Every rank writes epoch, label and features of what it was given to `seen-RANK.json` in the folder.
"""

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from conftest import make_clip
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as Picture
from torch.distributed import destroy_process_group
from transformers import CLIPImageProcessor, Trainer, TrainerCallback, TrainingArguments

from peft_coop.data import AugmentationCallback, AugmentedFeatures

N_IMAGES, BATCH_SIZE, VIEWS, EPOCHS, SEED = 9, 3, 2, 4, 5


def make_images():
    """Noise, on which every crop looks different; each image has its own label."""
    generator = np.random.default_rng(0)
    pictures = [Picture.fromarray(generator.integers(0, 256, (40, 30, 3), dtype=np.uint8)) for _ in range(N_IMAGES)]
    features = Features({"image": Image(), "label": ClassLabel(num_classes=N_IMAGES)})
    return Dataset.from_dict({"image": pictures, "label": list(range(N_IMAGES))}, features=features)


def make_processor():
    return CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


class Recorder(torch.nn.Module):
    """Keeps what the Trainer gives it."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.epoch = -1
        self.seen = []

    def forward(self, image_embeds, labels):
        self.seen += [(self.epoch, int(label), row.clone()) for label, row in zip(labels, image_embeds, strict=True)]
        return {"loss": self.weight * image_embeds.mean()}


class EpochNotes(TrainerCallback):
    """Tells the recorder the epoch, which a training that goes on begins in its middle."""

    def __init__(self, recorder):
        self.recorder = recorder

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.recorder.epoch = int(state.epoch)


def train(dataset, folder, resume=None, **settings):
    """Epoch, label and features of all images that were given, in order."""
    arguments = TrainingArguments(
        str(folder),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH_SIZE,
        save_steps=5,
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        seed=7,
        dataloader_pin_memory=False,
        **settings,
    )
    model = Recorder()
    callbacks = [AugmentationCallback(), EpochNotes(model)]
    Trainer(model, arguments, train_dataset=dataset, callbacks=callbacks).train(resume_from_checkpoint=resume)
    return model.seen


def main():
    folder = Path(sys.argv[1])
    dataset = AugmentedFeatures(make_images(), make_clip().double(), make_processor(), VIEWS, SEED)
    seen = train(dataset, folder / "out")
    rows = [(epoch, label, row.tolist()) for epoch, label, row in seen]
    (folder / f"seen-{os.environ['RANK']}.json").write_text(json.dumps(rows))
    destroy_process_group()


if __name__ == "__main__":
    main()
