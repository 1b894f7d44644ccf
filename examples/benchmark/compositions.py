"""All pairs of an open world: CSP's prompts as a tree of nodes against prompts padded to 77 positions and to 8.

C-GQA has 413 attributes and 674 objects, so 278,362 pairs, and MIT-States 1,262 pairs to train on. The tower has
ViT-L/14's sizes and random weights, and words are made up: one vector each, whatever they are. To 8 positions the
original pads in training, to 77 CLIP's own code.

What to expect, written down before it was measured: "BOS a photo of" is 4 nodes for all, an attribute is one, a pair
two (its object and EOS), so 557,141 nodes instead of 77 * 278,362 positions: 38.5 times fewer, and 4.0 times fewer than
with 8. Nearly all time is matrix products and should follow: 35 to 40 times, and 3.5 to 4. In a training step 1,262
pairs of 115 and 245 words are 2,643 nodes: 36.8 times fewer than 97,174 positions, 3.8 times fewer than 10,096. Memory
does not grow with the pairs, but for the result: 278,362 features of 768 numbers, 0.80 GiB.

Pairs are timed on a share, all forms on the same one, in turn, and multiplied. Seconds are those that the process
computed with one thread (CPU time), so that other work on the machine counts little; beside them those of the clock.
"""

import argparse
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from bench import make_clip, resident
from cases import HERE
from own_process import in_own_process
from peft import get_peft_model
from reference import LENGTH, POSITIONS_AT_ONCE, Reference
from timing import timed_with_cpu
from torch import Tensor
from torch.nn.functional import cross_entropy, normalize

from peft_coop import CSPConfig
from peft_coop.demo import MODEL_PATH
from peft_coop.prompts.tree import build_tree

FORMS = {"padded": LENGTH, "trimmed": 8}


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        width: of the text tower.
        layers: of the text tower.
        world: attributes and objects whose pairs are all encoded.
        share: pairs of them that are timed.
        trained: attributes, objects and pairs of a training step.
        trained_share: pairs of them that the padded forms are timed on.
        batch: image features in a training step.
        scored: images that are scored against all pairs.
        scored_at_once: those that are scored together.
    """

    width: int = 768
    layers: int = 12
    world: tuple[int, int] = (413, 674)  # C-GQA
    share: int = 128
    trained: tuple[int, int, int] = (115, 245, 1262)  # MIT-States
    trained_share: int = 32
    batch: int = 128
    scored: int = 1000
    scored_at_once: int = 50


SIZES = Sizes()
SMALL = Sizes(64, 2, (7, 9), 20, (5, 6, 12), 6, 4, 10, 4)


def make_model(sizes: Sizes, words: tuple[int, int], n_pairs: int, layers: int | None = None):
    """A CSP adapter with made-up words, some of whose pairs are trained."""
    attributes, objects = (
        [f"{kind}{index}" for index in range(count)] for kind, count in zip("ao", words, strict=True)
    )
    every = [[attribute, thing] for attribute in attributes for thing in objects]
    pairs = random.Random(0).sample(every, n_pairs)
    # The weights are random, so any tokenizer whose ids exist will do; this one needs no download.
    config = CSPConfig(attributes=attributes, objects=objects, train_pairs=pairs, tokenizer_name_or_path=MODEL_PATH)
    return get_peft_model(make_clip(sizes.width, layers or sizes.layers), config)


def make_world(sizes: Sizes, layers: int | None = None):
    """A model that is to be evaluated on all pairs, and these."""
    model = make_model(sizes, sizes.world, n_pairs=min(100, sizes.share), layers=layers).eval()
    return model, torch.cartesian_prod(*map(torch.arange, sizes.world))


def share_of(sizes: Sizes, every: Tensor) -> Tensor:
    """The pairs that are timed: a run from the middle of all, half a part of `encode_pairs`."""
    start = (len(every) - sizes.share) // 2
    return every[start : start + sizes.share]


def sequences_of(model, pairs: Tensor | None = None):
    """The prompts of some pairs, or of the adapter's classes."""
    prompt = model.prompt_layer.prompt
    return prompt.sequences(model.class_names if pairs is None else prompt.classes_of_call(pair_ids=pairs))


def encoders(sizes: Sizes) -> dict[str, Callable[[], Tensor]]:
    """Features of the share in each form, for evaluation."""
    model, every = make_world(sizes)
    share = share_of(sizes, every)
    sequences, vectors = sequences_of(model, share), model.prompt_layer.prompt.vectors().detach()

    def encode(length: int) -> Tensor:
        reference, at_once = Reference(model.get_base_model(), sequences, length), POSITIONS_AT_ONCE // length
        parts = [slice(start, start + at_once) for start in range(0, len(share), at_once)]
        with torch.no_grad():
            return torch.cat([normalize(reference.features(vectors, part), dim=-1) for part in parts])

    return {
        "tree": lambda: model.encode_pairs(share),
        **{name: lambda length=length: encode(length) for name, length in FORMS.items()},
    }


def steps(sizes: Sizes) -> dict[str, Callable[[], Tensor]]:
    """A training step in each form, the padded ones on a share of the pairs; each gives the table's gradient."""
    *words, n_pairs = sizes.trained
    model = make_model(sizes, tuple(words), n_pairs).train()
    table, scale = model.prompt_layer.prompt.table, model.get_base_model().logit_scale.exp()
    images = normalize(torch.randn(sizes.batch, sizes.width), dim=-1)
    labels = torch.arange(sizes.batch) % sizes.trained_share
    numbers = model.prompt_layer.prompt.words.ids
    share = [numbers(name) for name in model.class_names[: sizes.trained_share]]
    sequences = sequences_of(model, share)

    def gradient(loss: Tensor) -> Tensor:
        [result] = torch.autograd.grad(loss, table)
        return result

    def padded(length: int) -> Tensor:
        reference = Reference(model.get_base_model(), sequences, length)
        texts = normalize(reference.features(model.prompt_layer.prompt.vectors()), dim=-1)
        return gradient(cross_entropy(scale * images @ texts.T, labels))

    return {
        "tree": lambda: gradient(model(image_embeds=images, labels=labels).loss),
        "tree of the share": lambda: gradient(model(image_embeds=images, labels=labels, pair_ids=share).loss),
        **{name: lambda length=length: padded(length) for name, length in FORMS.items()},
    }


def in_turn(forms: dict[str, Callable[[], Tensor]], scales: dict[str, float], alike: str, repeats: int) -> dict:
    """Time forms in turn: seconds computed and by the clock, ratios to the tree, difference to the form `alike`."""
    results = {name: run() for name, run in forms.items()}  # warms up, too
    difference = max((results[name] - results[alike]).abs().max().item() for name in FORMS)
    clock, computed = ({name: [] for name in forms} for _ in range(2))
    for _ in range(repeats):
        for name, run in forms.items():
            seconds = timed_with_cpu(run)
            clock[name].append(scales[name] * seconds[0])
            computed[name].append(scales[name] * seconds[1])
    ratios = {name: [a / b for a, b in zip(computed[name], computed["tree"], strict=True)] for name in FORMS}
    return {
        "difference": difference / results[alike].abs().max().item(),
        "seconds": {name: median(times) for name, times in computed.items()},
        "clock_seconds": {name: median(times) for name, times in clock.items()},
        "ratios": {name: median(each) for name, each in ratios.items()},
    }


def evaluation(sizes: Sizes, repeats: int) -> dict:
    """Encoding all pairs: nodes counted by the library's tree, seconds of a share, multiplied."""
    model, every = make_world(sizes)
    nodes = build_tree(sequences_of(model, every)).n_nodes
    measured = in_turn(
        encoders(sizes), dict.fromkeys(("tree", *FORMS), len(every) / sizes.share), alike="tree", repeats=repeats
    )
    return {"pairs": len(every), "share": sizes.share, "nodes": nodes, **measured}


def training(sizes: Sizes, repeats: int) -> dict:
    """A training step: the tree's on all pairs, the padded ones' on a share, multiplied."""
    *words, n_pairs = sizes.trained
    nodes = build_tree(sequences_of(make_model(sizes, tuple(words), n_pairs, layers=1))).n_nodes
    scales = {"tree": 1.0, "tree of the share": 1.0, **dict.fromkeys(FORMS, n_pairs / sizes.trained_share)}
    measured = in_turn(steps(sizes), scales, alike="tree of the share", repeats=repeats)
    return {"pairs": n_pairs, "share": sizes.trained_share, "batch": sizes.batch, "nodes": nodes, **measured}


def peak_above_model(run: Callable[[], object]) -> int:
    """Bytes by which this process' peak lies above what it had before."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew; it would include what loading took
    before = resident("VmRSS")
    run()
    return resident("VmHWM") - before


def whole_world(sizes: Sizes) -> dict:
    """All pairs through a tower of one layer, and images scored against them: memory, which layers do not add to."""
    model, every = make_world(sizes, layers=1)
    kept = {}

    def encode() -> None:
        kept["bank"] = model.encode_pairs(every, progress=True)

    def score() -> None:
        images = normalize(torch.randn(sizes.scored, sizes.width), dim=-1)
        for some in images.split(sizes.scored_at_once):
            (some @ kept["bank"].T).argmax(dim=-1)

    result = {"peak_bytes": peak_above_model(encode), "bank_bytes": kept["bank"].nbytes}
    seconds = timed_with_cpu(score)
    result |= {"score_seconds": seconds[1], "score_clock_seconds": seconds[0]}
    return {**result, "score_peak_bytes": peak_above_model(score), "scored": sizes.scored}


def run_alone(what: str, sizes: Sizes) -> dict:
    """One measurement in this process, which does nothing else."""
    if what == "world":
        return whole_world(sizes)
    kind, form = what.split(":")
    forms = {"evaluation": encoders, "training": steps}[kind](sizes)
    return {"peak_bytes": peak_above_model(forms[form])}


def show(kind: str, row: dict) -> None:
    """Print what was measured of one kind."""
    print(f"{kind}: {row['pairs']:,} pairs, {row['nodes']:,} nodes; difference {row['difference']:.0e}")
    for form, length in FORMS.items():
        positions = length * row["pairs"]
        print(
            f"  {form} to {length}: {positions:,} positions ({positions / row['nodes']:.1f} x the nodes), "
            f"{row['seconds'][form]:,.1f} s (clock {row['clock_seconds'][form]:,.1f}), extrapolated from "
            f"{row['share']:,} pairs: {row['ratios'][form]:.1f} x the tree's"
        )
    how = f"extrapolated from {row['share']:,} pairs" if kind == "evaluation" else "measured"
    print(f"  tree: {row['seconds']['tree']:,.1f} s (clock {row['clock_seconds']['tree']:,.1f}), {how}")
    for form, peak in row["peak_bytes"].items():
        print(f"  peak memory above the model, {form}: {peak / 2**30:.3f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=HERE / "results.json")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="a few pairs and a small tower, in seconds")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = SMALL if options.smoke else SIZES
    torch.set_num_threads(1)
    if options.alone:
        print(json.dumps(run_alone(options.alone, sizes)))
        return
    results = {"torch": torch.__version__, "threads": torch.get_num_threads(), "layers": sizes.layers}
    results |= {"width": sizes.width, "lengths": FORMS}

    def alone(what: str) -> dict:
        return run_alone(what, sizes) if options.smoke else in_own_process("compositions.py", "--alone", what)

    for kind, measure in {"evaluation": evaluation, "training": training}.items():
        row = measure(sizes, 1 if options.smoke else options.repeats)
        row["peak_bytes"] = {form: alone(f"{kind}:{form}")["peak_bytes"] for form in ("tree", *FORMS)}
        results[kind] = row
        show(kind, row)
    results["world"] = world = alone("world")
    print(
        f"all pairs encoded: peak memory {world['peak_bytes'] / 2**30:.2f} GiB above the model, of which "
        f"{world['bank_bytes'] / 2**30:.2f} GiB are their features; "
        f"{world['scored']:,} images scored against them in {world['score_seconds']:.1f} s "
        f"(clock {world['score_clock_seconds']:.1f}), {world['score_peak_bytes'] / 2**30:.2f} GiB more"
    )
    every = json.loads(options.output.read_text()) if options.output.exists() else {}
    options.output.write_text(json.dumps({**every, "compositions": results}, indent=1))


if __name__ == "__main__":
    main()
