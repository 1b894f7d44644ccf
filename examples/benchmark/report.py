"""Turn `results.json` into a table (`results.md`) and a picture of the cost over the number of classes."""

import json
from pathlib import Path

from matplotlib.figure import Figure

HERE = Path(__file__).parent


def table(results: dict) -> str:
    lines = [
        f"torch {results['torch']}, {results['threads']} threads, float32, forward and backward of the text side.",
        "",
        "| data (classes), method, name position, M | positions: padded | tree | ideal | seconds: padded | tree "
        "| ratio | share of matrix speed | peak memory |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in results["table"]:
        positions = row["positions"]
        cells = [
            row["label"],
            *(f"{positions[kind]:,}" for kind in ("padded", "tree", "ideal")),
            f"{row['padded_seconds']:.2f}",
            f"{row['seconds']:.3f}",
            f"**{row['ratio']:.1f}**",
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
    return "\n".join(lines) + "\n"


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
    results = json.loads((HERE / "results.json").read_text())
    (HERE / "results.md").write_text(table(results))
    if "growth" in results:
        plot_growth(results["growth"], HERE / "cost-over-classes.png")


if __name__ == "__main__":
    main()
