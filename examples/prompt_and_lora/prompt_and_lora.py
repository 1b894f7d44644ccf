"""Learn a prompt and a LoRA of the vision tower together; save, load and merge them.

python prompt_and_lora.py my-images
python prompt_and_lora.py my-images --num_shots 4 --rank 2
"""

from __future__ import annotations

import argparse
from functools import partial

from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoImageProcessor, AutoModel, Trainer, TrainingArguments, set_seed

from peft_coop import CoOpConfig, demo
from peft_coop.data import load_data
from peft_coop.evaluation import draw_images, scores

# The demo's CLIP has a smaller logit scale than OpenAI's, so its gradients are smaller and its learning rate is larger.
SMOKE = {"data": "demo:digits", "model": demo.MODEL_PATH, "learning_rate": 0.01, "num_epochs": 6, "num_shots": 8}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", help="holds CLASS/IMAGE, or train/CLASS/IMAGE and test/CLASS/IMAGE")
    parser.add_argument("--model", default="openai/clip-vit-base-patch16", help="CLIP on the Hub or in a folder")
    parser.add_argument("--num_shots", type=int, default=16, help="training images per class")
    parser.add_argument("--n_ctx", type=int, default=4, help="context vectors per prompt")
    parser.add_argument("--rank", type=int, default=4, help="of the LoRA")
    parser.add_argument("--num_epochs", type=int, default=20)
    parser.add_argument("--learning_rate", type=float, default=2e-4, help="of AdamW, for both")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output_dir", default="output")
    parser.add_argument("--smoke", action="store_true", help="seconds: the demo's CLIP and scanned digits")
    args = parser.parse_args()
    if args.folder is None and not args.smoke:
        parser.error("give a folder of images, or --smoke")
    vars(args).update({"data": f"folder:{args.folder}"} | (SMOKE if args.smoke else {}))
    return args


def as_pixels(images: Dataset, image_processor) -> Dataset:
    """Prepared anew in every epoch; a LoRA changes the vision tower, so that features cannot be computed once."""

    def prepare(rows: dict[str, list]) -> dict[str, object]:
        pictures = [image.convert("RGB") for image in rows["image"]]
        return {"labels": rows["label"], **image_processor(pictures, return_tensors="pt")}

    return images.with_transform(prepare)


def make_model(args: argparse.Namespace, class_names: list[str], with_lora: bool) -> PeftModel:
    set_seed(args.seed)
    config = CoOpConfig(n_ctx=args.n_ctx, class_names=class_names, tokenizer_name_or_path=args.model)
    model = get_peft_model(AutoModel.from_pretrained(args.model), config)
    if with_lora:
        lora = LoraConfig(r=args.rank, lora_alpha=args.rank, target_modules=r"vision_model\..*\.(q_proj|v_proj)")
        model.add_adapter("vision", lora)
    return model


def make_trainer(args: argparse.Namespace, model: PeftModel, train: Dataset) -> Trainer:
    arguments = TrainingArguments(
        args.output_dir,
        num_train_epochs=args.num_epochs,
        learning_rate=args.learning_rate,
        per_device_train_batch_size=32,
        per_device_eval_batch_size=64,
        seed=args.seed,
        save_strategy="no",
        remove_unused_columns=False,  # the images are turned into pixels when they are read
        report_to="none",
        disable_tqdm=args.smoke,
    )
    return Trainer(model, arguments, train_dataset=train)


def accuracy(trainer: Trainer, images: Dataset) -> float:
    output = trainer.predict(images)
    return scores(output.predictions, output.label_ids)["accuracy"]


def main() -> None:
    args = parse_args()
    data = load_data(args.data, args.seed)
    image_processor = AutoImageProcessor.from_pretrained(args.model)
    drawn = draw_images(data, args.num_shots, args.seed).train
    train, test = (as_pixels(images, image_processor) for images in (drawn, data.test))

    for with_lora in (False, True):
        model = make_model(args, data.class_names, with_lora)
        trainer = make_trainer(args, model, train)
        if not with_lora:
            with model.disable_adapter():
                print(f"zero-shot: accuracy {accuracy(trainer, test):.4f}")
        trainer.train()
        title = "prompt and LoRA" if with_lora else "prompt alone"
        print(f"{title}: {model.get_nb_trainable_parameters()[0]:,} weights, accuracy {accuracy(trainer, test):.4f}")

    model.save_pretrained(args.output_dir)  # the prompt, and the LoRA in the folder "vision"
    loaded = PeftModel.from_pretrained(AutoModel.from_pretrained(args.model), args.output_dir)
    loaded.load_adapter(f"{args.output_dir}/vision", "vision")
    predict = partial(accuracy, make_trainer(args, loaded, train))
    print(f"loaded: accuracy {predict(test):.4f}")
    loaded.merge_adapter(["vision"])  # into CLIP's own weights; the prompt stays a prompt
    print(f"merged: accuracy {predict(test):.4f}")


if __name__ == "__main__":
    main()
