"""Two processes (gloo) compute what one process computes on the same global batches; in float64, so to 1e-9."""

import json
import math
from pathlib import Path

import pytest
from forked import run_ranks

from peft_coop.methods import METHODS

WORKER = Path(__file__).parent / "distributed_worker.py"
STEPS = 3
LOOPS = ("trainer", "accelerate")
# (loop, method, batch size per process, gradient accumulation), each with a global batch of eight images.
IN_ONE = [(loop, method, 8, 1) for loop in LOOPS for method in METHODS]
IN_TWO = [(loop, method, 4, 1) for loop in LOOPS for method in METHODS]
IN_TWO += [(loop, method, 2, 2) for loop in LOOPS for method in METHODS]


def run_worker(folder: Path, tokenizer: str, n_processes: int, runs: list) -> dict[tuple, dict]:
    """Train in `n_processes`; the results by run."""
    settings = {"tokenizer": tokenizer, "steps": STEPS, "runs": runs}
    settings |= {"folder": str(folder / "out"), "results": str(folder / f"results-{n_processes}.json")}
    file = folder / f"settings-{n_processes}.json"
    file.write_text(json.dumps(settings))
    for done in run_ranks(n_processes, WORKER, file):
        assert done.returncode == 0, done.stderr[-4000:]
    return dict(zip(runs, json.loads(Path(settings["results"]).read_text()), strict=True))


@pytest.fixture(scope="module")
def results(tmp_path_factory, tokenizer_path) -> dict[tuple, dict]:
    folder = tmp_path_factory.mktemp("distributed")
    return {
        (n, *run): result
        for n, runs in ((1, IN_ONE), (2, IN_TWO))
        for run, result in run_worker(folder, tokenizer_path, n, runs).items()
    }


@pytest.mark.parametrize(("loop", "method", "batch_size", "accumulation"), IN_TWO)
def test_two_processes_learn_what_one_learns(results, loop, method, batch_size, accumulation):
    one, two = results[1, loop, method, 8, 1], results[2, loop, method, batch_size, accumulation]
    assert len(one["losses"]) == STEPS
    # The plain loop notes every micro-batch: their mean is the step's loss.
    parts = len(two["losses"]) // STEPS
    means = [sum(two["losses"][index * parts : (index + 1) * parts]) / parts for index in range(STEPS)]
    # The Trainer adds up the losses that it notes in float32, whatever the model's precision.
    assert means == pytest.approx(one["losses"], rel=1e-6 if loop == "trainer" else 1e-9)
    assert one["losses"][0] != pytest.approx(one["losses"][-1], rel=1e-3)
    assert two["eval_loss"] == pytest.approx(one["eval_loss"], rel=1e-9)
    assert math.dist(two["context"], one["context"]) < 1e-9 * math.hypot(*one["context"])
