"""Learn a prompt for classes of your own from a few images of each, with the Hugging Face Trainer.

python train_on_folder.py my-images
python train_on_folder.py my-images --num_shots 4 --other_class_names day night
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from peft import PeftModel, get_peft_model
from PIL.Image import Image
from transformers import AutoImageProcessor, AutoModel, Trainer, pipeline, set_seed

from peft_coop import CoOpConfig, demo
from peft_coop.data import few_shot_indices, load_data, with_image_embeds
from peft_coop.evaluation import draw_images, scores
from peft_coop.methods import METHODS
from peft_coop.recipes import LEARNING_RATE

# The demo's CLIP has a smaller logit scale than OpenAI's, so its gradients are smaller and its learning rate is larger.
SMOKE = {
    "model": demo.MODEL_PATH,
    "learning_rate": demo.LEARNING_RATE,
    "num_epochs": 20,
    "other_class_names": ["digit", "red circle"],
}
SMOKE_IMAGES_PER_CLASS = 20


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", help="holds CLASS/IMAGE, or train/CLASS/IMAGE and test/CLASS/IMAGE")
    parser.add_argument("--model", default="openai/clip-vit-base-patch16", help="CLIP on the Hub or in a folder")
    parser.add_argument("--num_shots", type=int, default=16, help="training images per class")
    parser.add_argument("--n_ctx", type=int, default=16, help="context vectors per prompt")
    parser.add_argument("--zero_shot_template", default="a photo of a {}.", help="the prompt to compare with")
    parser.add_argument("--num_epochs", type=int, help="default: the paper's for the shots, 50 to 200")
    parser.add_argument("--learning_rate", type=float, default=LEARNING_RATE, help="where the cosine starts")
    parser.add_argument("--other_class_names", nargs="+", default=["indoors", "outdoors"], help="to ask for as well")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--output_dir", default="output")
    parser.add_argument("--smoke", action="store_true", help="seconds: the demo's CLIP and a folder of scanned digits")
    args = parser.parse_args()
    if args.smoke:
        vars(args).update(SMOKE)
    elif args.folder is None:
        parser.error("give a folder of images, or --smoke")
    return args


def write_digits(folder: Path) -> None:
    """A folder as anyone might have it: one folder of image files per class."""
    task = demo.load_task("digits")
    for name in task.class_names:
        (folder / name).mkdir()
    drawn, _ = few_shot_indices(task.train["label"], [], SMOKE_IMAGES_PER_CLASS, seed=1)
    for index in drawn:
        row = task.train[index]
        row["image"].save(folder / task.class_names[row["label"]] / f"{index}.png")


def make_trainer(args: argparse.Namespace, model: PeftModel, train) -> Trainer:
    """The Trainer with the paper's recipe."""
    recipe = METHODS["coop"].recipe(args.num_shots)
    recipe = replace(recipe, num_epochs=args.num_epochs or recipe.num_epochs, learning_rate=args.learning_rate)
    arguments = recipe.arguments(args.output_dir, len(train), seed=args.seed, save_strategy="no")
    optimizers = recipe.optimizers(model, arguments, len(train))
    return Trainer(model, arguments, train_dataset=train, optimizers=optimizers)


def accuracy(trainer: Trainer, images) -> float:
    output = trainer.predict(images)
    return scores(output.predictions, output.label_ids)["accuracy"]


def learn(args: argparse.Namespace, folder: str) -> tuple[Image, str]:
    """Measure zero-shot CLIP, learn a prompt, measure again and save; a test image to try it on, and its class."""
    set_seed(args.seed)
    data = load_data(f"folder:{folder}", args.seed)
    drawn = draw_images(data, args.num_shots, args.seed).train
    print(f"{len(data.class_names)} classes, {len(drawn)} images to learn from, {len(data.test)} to test on")

    config = CoOpConfig(n_ctx=args.n_ctx, class_names=data.class_names, zero_shot_template=args.zero_shot_template)
    model = get_peft_model(AutoModel.from_pretrained(args.model), config)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    image_processor = AutoImageProcessor.from_pretrained(args.model)
    # The vision tower stays as it is, so that each image needs to go through it only once.
    train, test = (with_image_embeds(images, model, image_processor) for images in (drawn, data.test))

    trainer = make_trainer(args, model, train)
    with model.disable_adapter():
        print(f"zero-shot: accuracy {accuracy(trainer, test):.4f}")
    trainer.train()
    print(f"learned: accuracy {accuracy(trainer, test):.4f}")
    model.save_pretrained(args.output_dir)
    print(f"saved to {args.output_dir}")
    example = data.test[0]
    return example["image"], data.class_names[example["label"]]


def use(args: argparse.Namespace, image: Image, class_name: str) -> None:
    """Load the prompt, as another program would, and classify an image, also into other classes."""
    model = PeftModel.from_pretrained(AutoModel.from_pretrained(args.model), args.output_dir).eval()
    image_processor = AutoImageProcessor.from_pretrained(args.model)
    classify = pipeline("image-classification", model=model, image_processor=image_processor)
    print(f"a test image of {class_name!r}:", in_words(classify(image, top_k=2)))
    model.set_classes(args.other_class_names)
    print("among other classes:", in_words(classify(image, top_k=2)))


def in_words(answers: list[dict]) -> str:
    return ", ".join(f"{answer['label']} {answer['score']:.2f}" for answer in answers)


def main() -> None:
    args = parse_args()
    with TemporaryDirectory() as digits:
        if args.smoke:
            write_digits(Path(digits))
        use(args, *learn(args, digits if args.smoke else args.folder))


if __name__ == "__main__":
    main()
