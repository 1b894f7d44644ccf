"""`peft-coop benchmark`: the papers' protocols over methods and seeds."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..progress import stage
from .compared_methods import all_keys, asked_methods, make_methods
from .composition import add_composition, check_composition, word_vectors
from .loading import load_clip, load_images, load_pairs, tell_shots
from .mask_options import BASELINES as MASK_BASELINES
from .mask_options import (
    MASKS,
    OF_WHOLE_IMAGES,
    PROTOCOL,
    add_masks,
    check_method,
    load_mask_images,
    prompt_segmentation,
    refuse,
    segmentation_baselines,
    windows_of,
)
from .messages import say
from .method_options import tell_unused
from .offered_methods import default_method, method_titles
from .options import (
    COMPOSITIONS,
    DEMO,
    IMAGES,
    add_context,
    add_data,
    add_device,
    add_model,
    add_quiet,
    add_recipe,
    add_set,
)
from .video_options import OF_TRIALS, VIDEOS, add_clips, add_ways, default_method_for, protocol_of, refuse_of_videos

if TYPE_CHECKING:
    from ..data import CompositionData, ImageData, MaskData
    from ..evaluation import ComparedMethod

Data = TypeVar("Data", "ImageData", "CompositionData")
SEEDS = [1, 2, 3]
EXAMPLES = """\
examples:
  peft-coop benchmark few-shot --data demo:digits --output runs
  peft-coop benchmark few-shot --data coop:oxford_pets@DATA coop:dtd@DATA --methods all --output runs \\
      --model openai/clip-vit-base-patch16
  peft-coop benchmark base-to-new --data demo:shapes --methods all --output runs
  peft-coop benchmark cross-dataset --data coop:imagenet@DATA --targets coop:oxford_pets@DATA coop:dtd@DATA ...
  peft-coop benchmark domain --data coop:imagenet@DATA --targets coop:imagenetv2@DATA coop:imagenet_a@DATA ...
  peft-coop benchmark ablation --data demo:digits --lengths 4 8 16 --starts "a photo of a" --output runs
  peft-coop benchmark composition --data demo:compositions --methods all --world both --output runs
  peft-coop benchmark few-shot --data videos:my-videos --model openai/clip-vit-base-patch16 --output runs
  peft-coop benchmark few-shot --data videos:my-videos --ways 5 --shots 5 --trials 200 --output runs
  peft-coop benchmark segmentation --data masks:ADEChallengeData2016 --model openai/clip-vit-base-patch16 --output runs

Every finished run is a folder below --output and is not done again: stop with Ctrl-C, go on with the same command.
`peft-coop report runs` prints the tables again and draws the figures.
"""


def add_commands(commands: Any) -> None:
    """Add `benchmark` with its protocols."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = commands.add_parser(
        "benchmark",
        help="the papers' protocols, over methods and seeds, resumable",
        description="The papers' protocols, over methods and seeds.",
        epilog=EXAMPLES,
        formatter_class=formatter,
    )
    protocols = parser.add_subparsers(required=True, metavar="PROTOCOL")
    few_shot = _add_protocol(
        protocols, "few-shot", "accuracy over training images per class", run_few_shot, f"{IMAGES}; {VIDEOS}"
    )
    few_shot.add_argument("--shots", nargs="+", type=int, default=[1, 2, 4, 8, 16], help="default: 1 2 4 8 16")
    add_ways(few_shot)
    base_to_new = _add_protocol(
        protocols,
        "base-to-new",
        "learn from half of the classes, classify into the others too",
        run_base_to_new,
        f"{IMAGES}; {VIDEOS}",
    )
    for one in (few_shot, base_to_new):
        add_clips(one)
    cross = _add_protocol(protocols, "cross-dataset", "learn from one dataset, test on others", run_cross_dataset)
    domain = _add_protocol(
        protocols, "domain", "learn from one dataset, test on other images of its classes", run_domain
    )
    for transfer in (cross, domain):
        transfer.add_argument("--targets", nargs="+", required=True, help="what else to test on, written as --data")
    ablation = _add_protocol(
        protocols, "ablation", "context length, start, position and model, every combination", run_ablation
    )
    ablation.set_defaults(n_ctx=None, ctx_init=None, position="end", class_specific=False)  # the grid has these
    ablation.add_argument("--lengths", nargs="+", type=int, default=[16], help="random contexts (default: 16)")
    ablation.add_argument("--starts", nargs="+", default=[], help="words that further contexts start with")
    ablation.add_argument("--positions", nargs="+", default=["end"], help="of end, middle, front (default: end)")
    ablation.add_argument("--contexts", nargs="+", default=["unified"], choices=("unified", "class-specific"))
    composition = _add_protocol(
        protocols,
        "composition",
        "learn from pairs of attribute and object, recognise these and pairs that were never shown",
        run_composition,
        COMPOSITIONS,
    )
    add_composition(composition)
    segmentation = _add_protocol(
        protocols, PROTOCOL, "learn from images with masks which class each pixel is of", run_segmentation, MASKS
    )
    add_masks(segmentation)
    for one in (base_to_new, cross, domain, ablation):
        one.add_argument("--shots", type=int, default=16, help="training images per class (default: 16)")


def _add_protocol(protocols: Any, name: str, text: str, run: Callable, data: str = IMAGES) -> argparse.ArgumentParser:
    parser = protocols.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    add_data(parser, several=True, text=data)
    if name == "ablation":
        parser.add_argument("--model", nargs="+", default=[DEMO], help="one or more models, as names or folders")
        add_device(parser)
    else:
        add_model(parser)
        add_context(parser)
    add_set(parser)
    keys = all_keys() if name != PROTOCOL else (*MASK_BASELINES, *method_titles())
    default = ["zero-shot", default_method()] if name != PROTOCOL else ["all"]
    parser.add_argument(
        "--methods",
        nargs="+",
        default=default if name == PROTOCOL else None,
        choices=[*keys, "all"],
        metavar="METHOD",
        help=f"of {', '.join(keys)}, or all that the protocol can use (default: {' '.join(default)}; with videos "
        "zero-shot and what reads them)",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=SEEDS, help="default: 1 2 3")
    parser.add_argument("--output", type=Path, required=True, help="folder of all runs")
    add_recipe(parser)
    add_quiet(parser)
    parser.add_argument("--dry-run", action="store_true", help="list the runs with an estimate, and do none")
    parser.set_defaults(run=run_protocol, protocol=name, do_protocol=run)
    return parser


def run_protocol(options: argparse.Namespace) -> None:
    """Do a protocol's runs and report, or list them."""
    refuse_of_videos(options, options.data[0])
    options.protocol = protocol_of(options.protocol, [*options.data, *getattr(options, "targets", ())])
    options.methods = options.methods or ["zero-shot", default_method_for(options.data[0])]
    if not options.dry_run:
        options.do_protocol(options)
        _report(options.output / (options.protocol + (OF_TRIALS if getattr(options, "ways", None) else "")))
        return
    from ..evaluation.planning import only_listed, seconds_per_image
    from .dry_run import format_plan

    with only_listed() as runs:
        options.do_protocol(options)
    first = options.model if isinstance(options.model, str) else options.model[0]
    print(format_plan(runs, seconds_per_image(load_clip(first, options))))


def run_few_shot(options: argparse.Namespace) -> None:
    """Accuracy over shots, or over tasks of some classes."""
    from ..evaluation import few_shot, few_shot_trials

    if options.ways is None:
        _run_on_each(options, few_shot)
        return
    if options.seeds != SEEDS:
        say("--seeds has no effect with --ways: each of the --trials is one")
    clip = load_clip(options.model, options)
    for data in _one_by_one(options):
        how = options.ways, options.shots, options.trials
        few_shot_trials(clip, data, make_methods(options, data), options.output, *how)


def run_base_to_new(options: argparse.Namespace) -> None:
    """Base and new classes."""
    from ..evaluation import base_to_new

    _run_on_each(options, base_to_new)


def run_cross_dataset(options: argparse.Namespace) -> None:
    """Transfer to other classes."""
    from ..evaluation import cross_dataset

    _run_on_each(options, cross_dataset)


def run_domain(options: argparse.Namespace) -> None:
    """Transfer to other images of the same classes."""
    from ..evaluation import domain_generalisation

    _run_on_each(options, domain_generalisation)


def _run_on_each(options: argparse.Namespace, protocol: Callable) -> None:
    """Do a protocol on each dataset, with the targets where it has any."""
    clip = load_clip(options.model, options)
    targets = [[load_images(source, options) for source in options.targets]] if "targets" in options else []
    for data in _one_by_one(options):
        methods = make_methods(options, data)
        protocol(clip, data, *targets, methods, options.output, options.shots, options.seeds)


def run_composition(options: argparse.Namespace) -> None:
    """Seen and unseen pairs."""
    from ..evaluation import composition

    how = check_composition(options)
    clip = load_clip(options.model, options)
    loaded = [load_pairs(source, options) for source in options.data]
    check_names(loaded)
    for data in one_by_one(options, loaded):
        methods, vectors = make_methods(options, data), word_vectors(options, data)
        composition(clip, data, methods, options.output, options.seeds, word_vectors=vectors, **how)


def run_segmentation(options: argparse.Namespace) -> None:
    """Pixels."""
    from ..evaluation.segmentation import segmentation, segmentation_methods

    refuse(options, OF_WHOLE_IMAGES)
    prompts = [method.key for method in segmentation_methods()]
    for key in options.methods:
        if key in method_titles():
            check_method(key)
    clip = load_clip(options.model, options)
    windows = windows_of(options, clip)
    loaded = [load_mask_images(source, options) for source in options.data]
    check_names(loaded)
    asked = [key for key in (*MASK_BASELINES, *prompts) if key in options.methods or "all" in options.methods]
    for data in loaded:
        baselines = segmentation_baselines(options, data, windows)
        methods = [baselines.get(key) or prompt_segmentation(key, options, data, windows) for key in asked]
        segmentation(clip, data, methods, options.output, options.seeds, options.num_images)


def run_ablation(options: argparse.Namespace) -> None:
    """Every combination of contexts and models."""
    from ..evaluation import ablation

    for name in options.model:
        of_model = argparse.Namespace(**{**vars(options), "model": name})
        clip = load_clip(name, options)
        for data in _one_by_one(of_model):
            methods = _grid(of_model, data)
            ablation([clip], data, methods, options.output, (options.shots,), options.seeds)


def _grid(options: argparse.Namespace, data: ImageData) -> list[ComparedMethod]:
    """Every combination of contexts for what learns a prompt, and the other methods as they are."""
    specific = [name == "class-specific" for name in options.contexts]
    methods: list[ComparedMethod] = []
    for method in make_methods(options, data):
        if method.key in method_titles():
            methods += method.grid(options.lengths, options.starts, options.positions, specific)
        else:
            methods.append(method)
    return methods


def _one_by_one(options: argparse.Namespace) -> Iterator[ImageData]:
    """The datasets; where there are several, each with what is done with it as a step of the whole."""
    loaded = load_all(options.data, options)
    yield from one_by_one(options, loaded)


def one_by_one(options: argparse.Namespace, loaded: Sequence[Data]) -> Iterator[Data]:
    """Datasets; where there are several, each with what is done with it as a step of the whole."""
    tell_unused(options, asked_methods(options))
    if len(loaded) == 1:
        yield from loaded
        return
    with stage(f"{options.protocol} with {options.model}", len(loaded), "dataset") as progress:
        for data in loaded:
            progress.doing(data.name)
            yield data
            progress.update()


def load_all(sources: Sequence[str], options: argparse.Namespace) -> list[ImageData]:
    """The images of several `--data` arguments, whose names tell their results apart.

    Raises:
        ValueError: if two have one name, or some have several labels per image and others not.
    """
    loaded = [load_images(source, options) for source in sources]
    for data in loaded:
        tell_shots(data, options.shots)
    check_names(loaded)
    options.protocol = _protocol_of_labels(options.protocol, loaded)
    return loaded


def _protocol_of_labels(protocol: str, loaded: Sequence[ImageData]) -> str:
    """What the protocol is called with images that have several labels, which only the loaded data tell.

    Raises:
        ValueError: if some have and others not, or it is none of such images.
    """
    from ..data import has_several_labels
    from ..evaluation.protocols import protocol_of as protocol_of_images

    several = [data for data in loaded if has_several_labels(data.test)]
    if not several:
        return protocol
    if len(several) < len(loaded):
        raise ValueError(
            f"The images of {several[0].name} have several labels, and those of other --data one class each: give them "
            "to two commands."
        )
    return protocol_of_images(protocol, several[0])


def check_names(loaded: Sequence[ImageData] | Sequence[CompositionData] | Sequence[MaskData]) -> None:
    """Refuse datasets whose results could not be told apart.

    Raises:
        ValueError: if two have one name.
    """
    names = [data.name for data in loaded]
    if len(set(names)) < len(names):
        raise ValueError(f"Every dataset must have a name of its own, got {names}: results are filed under it.")


def _report(folder: Path) -> None:
    from ..evaluation import format_report, load_runs, write_report
    from ..evaluation.folder_locks import locked

    left_out: list[str] = []
    runs = load_runs([folder], left_out)
    for reason in left_out:
        say(reason)
    with locked(folder, wait=True):  # another benchmark may end at the same time
        write_report(runs, folder / "report")
    print(format_report(runs))
    say(f"wrote tables and figures to {folder / 'report'}")
