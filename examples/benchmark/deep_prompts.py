"""Prompts at the layers of both towers: a step of MaPLe's shape against plain Hugging Face towers with hooks.

The aim, written before anything was measured: on the text side a step at least ten times as fast as with prompts that
are padded to 77 positions, and a tenth of what it keeps for the backward pass, as for vectors at the embeddings alone;
on the vision side a step as fast as with hooks to within five percent, and what it keeps the same to within one. What
the vision tower's prompts cost beside images without any says what there would be to gain if layers whose prompts are
replaced behind them computed their keys and values alone: worth a path of its own from five percent on. Of TCP's
shape, where from layer 8 on each class has vectors of its own and nothing behind BOS is shared: a step at least six
times as fast, since a third of the layers cost what class-specific vectors do.

ViT-B/16 with random weights, float32, frozen. The forms run in turn in one process; a ratio is the median of rounds.

    python deep_prompts.py            # five minutes on a core
    python deep_prompts.py --smoke    # seconds
"""

import argparse
import json
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from statistics import median

import torch
from bench import make_clip
from cases import HERE, VOCAB, WIDTH, Case, Specials, load_names, sequences_of
from image_side import make_image_clip
from reference import LENGTH, Reference, objective
from timing import timed
from torch.utils.flop_counter import FlopCounterMode

from peft_coop.methods.promptsrc import clip_templates
from peft_coop.prompts import PromptSequences
from peft_coop.towers import image_features, open_vision_tower, text_tower
from peft_coop.towers.tree_prompts import TreePrompts

VISION_WIDTH = 768


def kept(clip, function) -> float:
    """MiB that a forward pass keeps for the backward pass beside the model's weights, each memory once."""
    weights, sizes = {weight.untyped_storage().data_ptr() for weight in clip.parameters()}, {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            sizes[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = function()
    del result
    return sum(sizes.values()) / 2**20


def operations(function) -> float:
    """Gigaflops of a forward pass's matrix products and attention."""
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops() / 1e9


def rows(count: int, width: int, layers: int) -> list[torch.Tensor]:
    """Vectors for each of some layers."""
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(count, width, generator=generator) * 0.02).requires_grad_() for _ in range(layers)]


@contextmanager
def before_layers(layers, tables, put_in):
    """Hooks that put rows into what layers read, from the second layer on."""
    with ExitStack() as stack:
        for layer, table in zip(layers[1:], tables[1:], strict=False):
            hook = layer.register_forward_pre_hook(
                lambda module, given, table=table: (put_in(given[0], table), *given[1:])
            )
            stack.callback(hook.remove)
        yield


def in_front(states, table):
    """The rows behind BOS become these."""
    return torch.cat([states[:, :1], table.expand(len(states), -1, -1), states[:, 1 + len(table) :]], dim=1)


def at_the_end(states, table):
    """The last rows become these."""
    return torch.cat([states[:, : -len(table)], table.expand(len(states), -1, -1)], dim=1)


def compare(clip, forms: dict, rounds: int) -> dict[str, float]:
    """Seconds, MiB kept, and the ratio of each form to "ours".

    Args:
        clip: the model.
        forms: by name, what gives a scalar.
        rounds: how often each step is taken, after a first one that does not count; 0: no time is taken.
    """
    times: dict[str, list[float]] = {name: [] for name in forms}
    results = {f"{name}_mib": kept(clip, forward) for name, forward in forms.items()}
    results |= {f"{name}_gflop": operations(forward) for name, forward in forms.items()}
    if not rounds:
        return {name: round(value, 3) for name, value in results.items()}
    for number in range(rounds + 1):
        for name, forward in forms.items():
            seconds = timed(lambda forward=forward: forward().backward())
            times[name] += [seconds] if number else []
    for name in forms:
        results[f"{name}_seconds"] = median(times[name])
        ratios = [one / ours for one, ours in zip(times[name], times["ours"], strict=True)]
        results[f"{name}_ratio"] = median(ratios)
    return {name: round(value, 3) for name, value in results.items()}


def text_side(n_cls: int, n_ctx: int, depth: int, rounds: int, width: int = WIDTH) -> dict[str, float]:
    """The classes' texts with vectors at the first layers, as a tree and padded with hooks."""
    clip, sequences = make_clip(width), sequences_of(Case("Caltech101", n_cls, n_ctx))
    tables = rows(n_ctx, width, depth)
    tower, prompts, padded = text_tower(clip), TreePrompts(sequences), Reference(clip, sequences, LENGTH)
    deep = dict(enumerate(tables[1:], start=1))

    def with_hooks():
        with before_layers(clip.text_model.encoder.layers, tables, in_front):
            return objective(padded.features(tables[0]))

    def ours():
        return objective(tower.encode(prompts, tables[0], None, deep))

    with torch.no_grad():
        torch.testing.assert_close(ours(), with_hooks(), atol=1e-3, rtol=1e-4)
    return compare(clip, {"ours": ours, "hooks": with_hooks}, rounds)


def of_each_class(n_cls: int, n_ctx: int, layer: int, rounds: int, width: int = WIDTH) -> dict[str, float]:
    """The same where before one layer each class has vectors of its own."""
    clip, sequences = make_clip(width), sequences_of(Case("Caltech101", n_cls, n_ctx))
    [vectors], [own] = rows(n_ctx, width, 1), rows(n_cls * n_ctx, width, 1)
    table = own.unflatten(0, (n_cls, n_ctx))
    tower, padded = text_tower(clip), Reference(clip, sequences, LENGTH)
    prompts = TreePrompts(replace(sequences, parts=True))

    def with_hooks():
        def put_in(module, given):
            return torch.cat([given[0][:, :1], table, given[0][:, 1 + n_ctx :]], dim=1), *given[1:]

        with ExitStack() as stack:
            stack.callback(clip.text_model.encoder.layers[layer].register_forward_pre_hook(put_in).remove)
            return objective(padded.features(vectors))

    def ours():
        return objective(tower.encode(prompts, vectors, None, {layer: table}))

    with torch.no_grad():
        torch.testing.assert_close(ours(), with_hooks(), atol=1e-3, rtol=1e-4)
    return compare(clip, {"ours": ours, "hooks": with_hooks}, rounds)


def vision_side(batch: int, n_ctx: int, depth: int, rounds: int, small: bool = False) -> dict[str, float]:
    """Images with vectors at the first layers, with hooks for them, and without any ("none")."""
    clip = make_image_clip(16, layers=2, image_size=32) if small else make_image_clip(16)
    tables, layers = rows(n_ctx, VISION_WIDTH, depth), clip.vision_model.encoder.layers
    pixels = torch.randn(batch, 3, clip.config.vision_config.image_size, clip.config.vision_config.image_size)
    shift = torch.zeros(1, 1, VISION_WIDTH, requires_grad=True)  # through which a gradient passes all layers

    def without():
        with ExitStack() as stack:
            stack.callback(
                clip.vision_model.embeddings.register_forward_hook(lambda module, given, states: states + shift).remove
            )
            return objective(image_features(clip, pixels + 0 * shift.sum()))

    def with_hooks():
        with ExitStack() as stack:
            append = clip.vision_model.embeddings.register_forward_hook(
                lambda module, given, states: torch.cat([states, tables[0].expand(len(states), -1, -1)], dim=1)
            )
            stack.callback(append.remove)
            stack.enter_context(before_layers(layers, tables, at_the_end))
            return objective(clip.get_image_features(pixels).pooler_output)

    with torch.no_grad():
        expected = with_hooks()
    open_vision_tower(clip)

    def ours():
        return objective(image_features(clip, pixels, tables))

    with torch.no_grad():
        torch.testing.assert_close(ours(), expected, atol=1e-3, rtol=1e-4)
    return compare(clip, {"ours": ours, "hooks": with_hooks, "none": without}, rounds)


def teachers(n_cls: int, batch: int, rounds: int, small: bool = False) -> dict[str, float]:
    """What PromptSRC's frozen model costs: its texts once for a list of classes, its images in every step."""
    clip = make_image_clip(16, layers=2, image_size=32) if small else make_image_clip(16)
    pixels = torch.randn(batch, 3, clip.config.vision_config.image_size, clip.config.vision_config.image_size)
    tower, vectors = text_tower(make_clip(64, 2) if small else make_clip()), rows(4, VISION_WIDTH, 2 if small else 9)
    names, words = load_names()["Caltech101"][:n_cls], {}
    prompts = []
    for template in clip_templates():  # a word is a token, whichever
        before, after = (
            [words.setdefault(word, 1000 + len(words)) for word in part.split()] for part in split(template)
        )
        ids = tuple(Specials.framed([*before, *name.ids[: name.name_length], *after]) for name in names)
        prompts.append(tower.prepare(PromptSequences(ids, VOCAB)))
    open_vision_tower(clip)

    @torch.no_grad()
    def texts():
        for each in prompts:
            tower.encode(each)

    @torch.no_grad()
    def images():
        image_features(clip, pixels)

    results = {}
    for name, function in (("texts_once", texts), ("images", images)):
        results[f"{name}_seconds"] = median(timed(function) for _ in range(rounds))
    step = median(timed(lambda: objective(image_features(clip, pixels, vectors)).backward()) for _ in range(rounds))
    results |= {"step_seconds": step, "images_share_of_step": results["images_seconds"] / step}
    return {name: round(value, 3) for name, value in results.items()}


def split(template: str) -> list[str]:
    """What stands before and behind the name."""
    return template.replace(".", " .").split("{}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few classes, tiny images and narrow towers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, nargs="+", default=[4])
    parser.add_argument("--output", default=HERE / "deep_prompts.json")
    options = parser.parse_args()
    rounds, width = (1, 64) if options.smoke else (options.rounds, WIDTH)
    results = {}
    for n_cls, n_ctx, depth in ((5, 2, 3),) if options.smoke else ((37, 2, 9), (37, 4, 12)):
        results[f"text, {n_cls} classes, {n_ctx} vectors, {depth} layers"] = text_side(
            n_cls, n_ctx, depth, rounds, width
        )
    n_cls = 5 if options.smoke else 37
    results[f"text, {n_cls} classes, 4 vectors of their own from layer 8 on"] = of_each_class(
        n_cls, 4, 8, rounds, width
    )
    for batch in (2,) if options.smoke else options.batch:
        depth = 2 if options.smoke else 9
        label = f"vision, batch {batch}, 2 vectors, {depth} layers"
        results[label] = vision_side(batch, 2, depth, rounds, options.smoke)
    batch = 2 if options.smoke else options.batch[0]
    label = f"PromptSRC's frozen model, {n_cls} classes in 60 prompts, batch {batch}"
    results[label] = teachers(n_cls, batch, rounds, options.smoke)
    with open(options.output, "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
    for label, row in results.items():
        print(label, *(f"{name} {value:,}" for name, value in row.items()), sep="\n  ")


if __name__ == "__main__":
    main()
