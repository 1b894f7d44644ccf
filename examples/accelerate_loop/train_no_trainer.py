"""Learn a prompt for CLIP in a loop of one's own, on one process or several, with Accelerate.

python train_no_trainer.py
torchrun --nproc_per_node 2 train_no_trainer.py
accelerate launch train_no_trainer.py --model openai/clip-vit-base-patch16 --dataset hub:oxford-iiit-pet
"""

from __future__ import annotations

import argparse
import math
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, set_seed
from peft import get_peft_model
from torch.utils.data import DataLoader
from transformers import AutoImageProcessor, AutoModel

from peft_coop import CoCoOpConfig, CoOpConfig
from peft_coop.data import few_shot_indices, load_data, prepare_images
from peft_coop.demo import MODEL_PATH
from peft_coop.recipes import LEARNING_RATE, make_optimizer

SMOKE = {"num_shots": 2, "num_epochs": 2, "n_ctx": 4, "max_test_images": 64}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="demo", help="CLIP on the Hub or in a folder; demo: the one in the package")
    parser.add_argument("--dataset", default="demo:digits", help="demo:digits, demo:shapes, hub:NAME or folder:PATH")
    parser.add_argument("--num_shots", type=int, default=16, help="training images per class; 0: all")
    parser.add_argument("--max_test_images", type=int, help="measure on the first of a random order only")
    parser.add_argument("--method", choices=["coop", "cocoop"], default="coop")
    parser.add_argument("--n_ctx", type=int, help="context vectors per prompt; default: 16, and 4 for CoCoOp")
    parser.add_argument("--num_epochs", type=int, default=50)
    parser.add_argument("--learning_rate", type=float, default=LEARNING_RATE, help="where the cosine starts")
    parser.add_argument("--batch_size", type=int, default=32, help="images per process and forward")
    parser.add_argument("--gradient_accumulation_steps", type=int, default=1)
    parser.add_argument("--mixed_precision", choices=["no", "bf16", "fp16"], default="no")
    parser.add_argument("--cpu", action="store_true", help="leave GPUs alone")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output_dir", default="output")
    parser.add_argument("--checkpointing_epochs", type=int, default=0, help="save the state every so many epochs")
    parser.add_argument("--resume_from_checkpoint", help="a folder that --checkpointing_epochs has written")
    parser.add_argument("--with_tracking", action="store_true", help="report losses and accuracies to --report_to")
    parser.add_argument("--report_to", default="all", help="tensorboard, wandb, …; all: those that are installed")
    parser.add_argument("--smoke", action="store_true", help="seconds: a few images and epochs")
    args = parser.parse_args()
    if args.smoke:
        vars(args).update(SMOKE)
    return args


def make_accelerator(args: argparse.Namespace) -> Accelerator:
    return Accelerator(
        cpu=args.cpu,
        mixed_precision=args.mixed_precision,
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        # The order of an epoch follows from the seed and the epoch, so that a resumed run sees the same batches.
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=True),
        log_with=args.report_to if args.with_tracking else None,
        project_dir=args.output_dir,
    )


def make_model(args: argparse.Namespace, class_names: list[str], template: str):
    path = MODEL_PATH if args.model == "demo" else args.model
    settings = {"class_names": class_names, "zero_shot_template": template}
    if args.method == "coop":
        config = CoOpConfig(n_ctx=args.n_ctx, **settings)
    elif args.n_ctx is None:
        config = CoCoOpConfig(**settings)
    else:
        config = CoCoOpConfig(n_ctx=args.n_ctx, ctx_init=None, **settings)
    return get_peft_model(AutoModel.from_pretrained(path), config), AutoImageProcessor.from_pretrained(path)


def make_loaders(args: argparse.Namespace, data, image_processor) -> tuple[DataLoader, DataLoader]:
    train, test = data.train, data.test
    if args.num_shots:
        train = train.select(few_shot_indices(train["label"], [], args.num_shots, args.seed)[0])
    if args.max_test_images:
        test = test.shuffle(seed=args.seed).select(range(min(args.max_test_images, len(test))))

    def collate(rows: list[dict]) -> dict[str, torch.Tensor]:
        images = [row["image"].convert("RGB") for row in rows]
        return {
            "pixel_values": prepare_images(images, image_processor),
            "labels": torch.tensor([row["label"] for row in rows]),
        }

    return (
        DataLoader(train, args.batch_size, shuffle=True, collate_fn=collate),
        DataLoader(test, args.batch_size, collate_fn=collate),
    )


def save_adapters_only(accelerator: Accelerator) -> None:
    """Let the accelerator's checkpoints hold the adapter, and not the frozen CLIP around it."""

    def save(models: list, weights: list, folder: str) -> None:
        weights.clear()
        for model in models:
            accelerator.unwrap_model(model).save_pretrained(folder, is_main_process=accelerator.is_main_process)

    def load(models: list, folder: str) -> None:
        while models:
            accelerator.unwrap_model(models.pop()).load_adapter(folder, "default", is_trainable=True)

    accelerator.register_save_state_pre_hook(save)
    accelerator.register_load_state_pre_hook(load)


def train_epoch(accelerator: Accelerator, model, loader: DataLoader, optimizer, scheduler) -> float:
    """One pass over the training images; the mean loss over all processes."""
    model.train()
    losses = []
    for batch in loader:
        with accelerator.accumulate(model):
            loss = model(**batch).loss
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            scheduler.step()
        losses.append(loss.detach())
    return accelerator.gather(torch.stack(losses)).mean().item()


@torch.no_grad()
def measure(accelerator: Accelerator, model, loader: DataLoader, zero_shot: bool = False) -> float:
    """Accuracy on the images of a loader, of the learned prompt or of the hand-written one."""
    model.eval()
    hits = []
    with accelerator.unwrap_model(model).disable_adapter() if zero_shot else nullcontext():
        for batch in loader:
            predictions = model(pixel_values=batch["pixel_values"]).logits.argmax(-1)
            # Drops what fills up the last batch when the images cannot be shared evenly.
            predictions, labels = accelerator.gather_for_metrics((predictions, batch["labels"]))
            hits.append(predictions == labels)
    return torch.cat(hits).float().mean().item()


def train(args: argparse.Namespace, accelerator: Accelerator) -> None:
    set_seed(args.seed)
    with accelerator.main_process_first():  # one process downloads, the others find it there
        data = load_data(args.dataset, args.seed)
        model, image_processor = make_model(args, data.class_names, data.zero_shot_template)
    train_loader, test_loader = accelerator.prepare(*make_loaders(args, data, image_processor))
    model = model.to(accelerator.device)
    steps_per_epoch = math.ceil(len(train_loader) / args.gradient_accumulation_steps)
    optimizer, scheduler = make_optimizer(model.parameters(), steps_per_epoch, args.num_epochs, args.learning_rate)
    model, optimizer = accelerator.prepare(model, optimizer)
    # Not prepared, as Accelerate would step it once per process: it counts the steps of all processes together.
    accelerator.register_for_checkpointing(scheduler)
    save_adapters_only(accelerator)

    first_epoch = 0
    if args.resume_from_checkpoint:
        accelerator.load_state(args.resume_from_checkpoint)
        first_epoch = scheduler.last_epoch // steps_per_epoch
        accelerator.print(f"resumed after epoch {first_epoch}")
    accelerator.print(f"zero-shot: accuracy {measure(accelerator, model, test_loader, zero_shot=True):.4f}")
    for epoch in range(first_epoch, args.num_epochs):
        train_loader.set_epoch(epoch)
        rate = scheduler.get_last_lr()[0]
        loss = train_epoch(accelerator, model, train_loader, optimizer, scheduler)
        accelerator.print(f"epoch {epoch + 1}/{args.num_epochs}: loss {loss:.4f}, learning rate {rate:.6f}")
        accelerator.log({"loss": loss, "learning_rate": rate}, step=epoch + 1)
        if args.checkpointing_epochs and (epoch + 1) % args.checkpointing_epochs == 0:
            accelerator.save_state(str(Path(args.output_dir) / f"epoch_{epoch + 1}"))
    accuracy = measure(accelerator, model, test_loader)
    accelerator.print(f"learned: accuracy {accuracy:.4f}")
    accelerator.log({"accuracy": accuracy}, step=args.num_epochs)

    accelerator.wait_for_everyone()
    accelerator.unwrap_model(model).save_pretrained(args.output_dir, is_main_process=accelerator.is_main_process)
    accelerator.print(f"saved to {args.output_dir}")


def main() -> None:
    args = parse_args()
    accelerator = make_accelerator(args)
    if args.with_tracking:
        accelerator.init_trackers("train_no_trainer", config={key: value for key, value in vars(args).items() if value})
    train(args, accelerator)
    accelerator.end_training()


if __name__ == "__main__":
    main()
