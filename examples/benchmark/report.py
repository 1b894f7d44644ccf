"""Turn `results.json` into a table (`results.md`) and a picture of the cost over the number of classes."""

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure

HERE = Path(__file__).parent


def table(results: dict) -> str:
    lines = [
        f"torch {results['torch']}, {results['threads']} threads, float32, forward and backward of the text side.",
        "",
        "| data (classes), method, name position, M | positions: padded | trimmed | tree | ideal "
        "| seconds: padded | trimmed | tree | padded / tree | trimmed / tree | share of matrix speed | peak memory |",
        f"|---|{'--:|' * 11}",
    ]
    for row in results["table"]:
        positions = row["positions"]
        cells = [
            row["label"],
            *(number(positions, kind, "{:,}") for kind in ("padded", "trimmed", "tree", "ideal")),
            *(number(row, kind, "{:.2f}") for kind in ("padded_seconds", "trimmed_seconds")),
            number(row, "seconds", "{:.3f}"),
            *(number(row, kind, "**{:.1f}**") for kind in ("ratio", "trimmed_ratio")),
            f"{row['share']:.0%}",
            f"{row['peak_bytes'] / 2**30:.2f} GiB",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    if "growth" in results:
        lines += ["", "| classes | positions | seconds | peak memory |", "|--:|--:|--:|--:|"]
        for row in results["growth"]:
            memory = f"{row['peak_bytes'] / 2**30:.2f} GiB"
            lines.append(f"| {row['n_cls']:,} | {row['positions']['tree']:,} | {row['seconds']:.2f} | {memory} |")
    if "epoch" in results:
        epoch = results["epoch"]
        lines += [
            "",
            f"One epoch of 16 shots of 100 classes on features computed before ({epoch['steps']} steps of 32): "
            f"{epoch['seconds']:.1f} s.",
        ]
    if "inference" in results:
        inference = results["inference"]
        lines += [
            "",
            f"Classifying a batch of {inference['images']} images takes {inference['ratio']:.3f} times what the bare "
            "vision tower takes (ViT-B/32, 102 classes, median of 7).",
        ]
    lines += cached_table(results.get("cached", []))
    lines += composition_table(results["compositions"]) if "compositions" in results else []
    return "\n".join(lines) + "\n"


def number(row: dict, key: str, form: str) -> str:
    """A number, or a dash in rows that were measured before there was such a column."""
    return form.format(row[key]) if key in row else "–"


def cached_table(rows: list[dict]) -> list[str]:
    """Training from pixels against training from features computed once."""
    lines = [
        "",
        "| a training step of ViT-B/16 | from pixels | from features computed once | ratio | linear head on these |",
        "|---|--:|--:|--:|--:|",
    ]
    for row in rows:
        name = row["label"] if "batch" in row["label"] else f"{row['label']}, batch {row['batch']}"
        seconds = f"{row['pixels_seconds']:.2f} s | {row['cached_seconds']:.3f} s | **{row['ratio']:.1f}**"
        lines.append(f"| {name} | {seconds} | {row['head_seconds'] * 1000:.2f} ms |")
    return lines if rows else []


def composition_table(results: dict) -> list[str]:
    """All pairs of an open world, and a training step of pairs: padded, padded to 8, and as a tree."""
    lines = [
        "",
        f"`compositions.py`: {results['threads']} thread, width {results['width']}, {results['layers']} layers; CPU "
        "seconds, in brackets those of the clock, on a machine that did other work, too. Italic: extrapolated from a "
        "share.",
        "",
        "| CSP | pairs | nodes | positions: padded | to 8 | seconds: padded | to 8 | tree | padded / tree "
        "| to 8 / tree | peak memory: padded | to 8 | tree |",
        f"|---|{'--:|' * 12}",
    ]
    for kind in ("evaluation", "training"):
        row = results[kind]
        names = ("padded", "trimmed", "tree")
        seconds = {name: f"{row['seconds'][name]:,.0f} ({row['clock_seconds'][name]:,.0f})" for name in names}
        extrapolated = names if kind == "evaluation" else names[:2]
        cells = [
            "all pairs, no gradient" if kind == "evaluation" else f"training step, batch {row['batch']}",
            *(f"{row[name]:,}" for name in ("pairs", "nodes")),
            *(f"{results['lengths'][name] * row['pairs']:,}" for name in names[:2]),
            *(f"*{seconds[name]}*" if name in extrapolated else seconds[name] for name in names),
            *(f"**{row['ratios'][name]:.1f}**" for name in names[:2]),
            *(f"{row['peak_bytes'][name] / 2**30:.2f} GiB" for name in names),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    evaluated, trained, world = results["evaluation"], results["training"], results["world"]
    lines += [
        "",
        f"Timed shares: {evaluated['share']} pairs in all forms; of the training step {trained['share']} pairs in the "
        "padded forms, and all in the tree. Peak memory is that of what was timed at once, so of all pairs for the "
        f"tree's training step, and of {trained['share']} for the padded ones.",
        "",
        f"All {evaluated['pairs']:,} pairs by `encode_pairs`, in parts of 256, through one layer (without a gradient, "
        f"layers add none): peak memory {world['peak_bytes'] / 2**30:.2f} GiB above the model, of which "
        f"{world['bank_bytes'] / 2**30:.2f} GiB are their features. {world['scored']:,} images scored against them in "
        f"parts: {world['score_seconds']:.1f} s ({world['score_clock_seconds']:.1f}), "
        f"{world['score_peak_bytes'] / 2**30:.2f} GiB more.",
    ]
    return lines


def plot_growth(rows: list[dict], path: Path) -> None:
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    seconds, memory = figure.subplots(1, 2)
    classes = [row["n_cls"] for row in rows]
    seconds.plot(classes, [row["seconds"] for row in rows], "o-", color="#1f6fb4")
    seconds.set_ylabel("seconds per training step")
    memory.plot(classes, [row["peak_bytes"] / 2**30 for row in rows], "o-", color="#d1495b")
    memory.set_ylabel("peak memory above the model (GiB)")
    memory.set_ylim(bottom=0)
    seconds.set_yscale("log")
    for axes in (seconds, memory):
        axes.set_xscale("log")
        axes.set_xlabel("classes")
        axes.set_xticks(classes, [f"{count:,}" for count in classes], rotation=30)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle("Text side of CoOp, M = 16, exact softmax over all classes (CPU, float32)")
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=HERE, help="where results.json lies and the others go")
    folder = parser.parse_args().folder
    results = json.loads((folder / "results.json").read_text())
    (folder / "results.md").write_text(table(results))
    if "growth" in results:
        plot_growth(results["growth"], folder / "cost-over-classes.png")


if __name__ == "__main__":
    main()
