"""`peft-coop demo`: a tour of the package on data that ships with it."""

from __future__ import annotations

import argparse
import tempfile
import time
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..progress import stage, without_datasets_bars
from .loading import load_clip
from .messages import say
from .offered_methods import method_titles
from .options import DEMO, add_model, add_quiet, percent

if TYPE_CHECKING:
    from ..data import ImageData
    from ..evaluation import FrozenCLIP
    from ..methods import Method

DEMO_DATA = "demo:digits"
DEMO_NEW_DATA = "demo:shapes"
SHOTS = (1, 4, 16)
OUTPUTS = ("adapter/README.md", "adapter/adapter_config.json", "adapter/adapter_model.safetensors", "few-shot.png")
SEED = 1
# Some papers train on one image at a time, since more did not fit; a tour need not wait for that.
SMALLEST_BATCH = 8
# Fields of the recipe that the tests cut short.
RECIPE: dict[str, Any] = {}


def add_commands(commands: Any) -> None:
    """Add `demo`."""
    first, *_ = method_titles().values()
    parser = commands.add_parser(
        "demo",
        help="learn prompts from a few images per class and compare them with zero-shot CLIP",
        description=f"Learn {first} from 1, 4 and 16 images per class, it and the other methods that leave the image "
        "encoder alone on base classes to try on new ones, save the adapter, load it again, classify a picture and "
        "draw the accuracies. Without options it needs no download: a tiny CLIP and small tasks ship with the package.",
    )
    add_model(parser)
    parser.add_argument(
        "--data",
        default=DEMO_DATA,
        help=f"demo:digits, demo:shapes, folder:PATH, hub:NAME or coop:NAME@DATA (default: {DEMO_DATA})",
    )
    parser.add_argument(
        "--base-new-data",
        help=f"data whose first half of classes is trained on and whose other half is new (default: {DEMO_NEW_DATA}, "
        "or --data if that is given)",
    )
    parser.add_argument("--output", type=Path, default=Path("demo-output"), help="folder for adapter and plot")
    add_quiet(parser)
    parser.set_defaults(run=run_demo)


def run_demo(options: argparse.Namespace) -> None:
    """Run the demo and print its tables.

    Raises:
        ValueError: if the model or the data cannot be loaded.
    """
    from peft import PeftModel

    from ..data import load_data
    from ..demo import learning_rate
    from ..evaluation import PromptLearning, ZeroShot, base_to_new, few_shot, load_runs, plot_few_shot
    from ..evaluation.output_folders import check_own, put
    from ..methods import METHODS

    started = time.monotonic()
    options.output.mkdir(parents=True, exist_ok=True)
    check_own(options.output, OUTPUTS)
    clip = load_clip(options.model, options)
    new_source = options.base_new_data or (DEMO_NEW_DATA if options.data == DEMO_DATA else options.data)
    data = load_data(options.data)
    new_data = data if new_source == options.data else load_data(new_source)
    for line in data.summary.lines() if options.data != DEMO_DATA else []:
        say(line)
    is_demo = options.model == DEMO
    methods = [
        PromptLearning(
            key, recipe=RECIPE | ({"learning_rate": learning_rate(key)} if is_demo else {}) | _larger_batch(method)
        )
        for key, method in METHODS.items()
        if "base-to-new" in method.protocols and not method.config().changes_vision  # those train on pixels: minutes
    ]
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder)
        with without_datasets_bars(), stage("demo", 2, "part") as progress:
            progress.doing(f"few images per class of {data.name}")
            curve = few_shot(clip, data, [ZeroShot(), methods[0]], runs, SHOTS, [SEED])
            progress.update()
            progress.doing(f"half of the classes of {new_data.name}")
            rows = base_to_new(clip, new_data, [ZeroShot(), *methods], runs, SHOTS[-1], [SEED])
            progress.update()
        model = PeftModel.from_pretrained(deepcopy(clip.model), Path(curve[-1]["folder"]) / "adapter")
        draft = runs / "output"
        model.save_pretrained(draft / "adapter")
        plot_few_shot(load_runs([runs / "few-shot"]), draft / "few-shot.png")
        put(draft, options.output)
    print_few_shot(data, curve)
    print_base_to_new(new_data, rows)
    print_use(clip, data, options.output)
    print(f"Drew {options.output / 'few-shot.png'}. All this took {time.monotonic() - started:.0f} s.")


def _larger_batch(method: Method) -> dict[str, int]:
    """What to change in a recipe whose batches are too small for a tour."""
    return {"batch_size": SMALLEST_BATCH} if method.recipe(SHOTS[-1]).batch_size < SMALLEST_BATCH else {}


def print_few_shot(data: ImageData, records: list[dict[str, Any]]) -> None:
    """Print accuracy over shots."""
    print(f"\n{data.name}: {len(data.class_names)} classes, {len(data.test):,} test images, accuracy in %")
    for record in records:
        shots, accuracy = record["settings"]["num_shots"], percent(record["results"]["test"]["accuracy"])
        images = "image" if shots == 1 else "images"
        label = f"{record['method_name']}, {shots} {images} per class" if shots else record["method_name"]
        print(f"  {label:<26}{accuracy:>6}{'' if shots else f'   {data.zero_shot_template}'}")


def print_base_to_new(data: ImageData, records: list[dict[str, Any]]) -> None:
    """Print accuracies on base and new classes."""
    from ..evaluation import harmonic_mean

    print(f"\n{data.name}: trained on the first half of its {len(data.class_names)} classes, accuracy in %")
    print(f"  {'':<16}{'base':>6}{'new':>8}{'H':>8}")
    for record in records:
        base, new = (record["results"][split]["accuracy"] for split in ("base", "new"))
        figures = f"{percent(base):>6}{percent(new):>8}{percent(harmonic_mean(base, new)):>8}"
        print(f"  {record['method_name']:<16}{figures}")


def print_use(clip: FrozenCLIP, data: ImageData, output: Path) -> None:
    """Load the saved adapter and classify an image."""
    from peft import PeftModel
    from transformers import pipeline

    adapter = output / "adapter"
    size = (adapter / "adapter_model.safetensors").stat().st_size
    loaded = PeftModel.from_pretrained(deepcopy(clip.model), adapter)
    image, label = data.test[0]["image"], data.class_names[data.test[0]["label"]]
    classify = pipeline("image-classification", model=loaded, image_processor=clip.processor.image_processor)
    best = classify(image)[0]
    print(f"\nSaved the 16-shot prompt to {adapter} ({size / 1000:.1f} kB) and loaded it again.")
    print(f"It calls the first test image {best['label']!r} ({best['score']:.0%}); it is {label!r}.")
