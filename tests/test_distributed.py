"""Two processes (gloo) compute what one process computes on the same global batches; in float64, so to 1e-9."""

import json
import math
from pathlib import Path

import pytest
from forked import run_ranks
from method_kinds import COVERING, IN_PARTS, traits

from peft_coop.methods import METHODS

WORKER = Path(__file__).parent / "distributed_worker.py"
STEPS = 3
LOOPS = ("trainer", "accelerate")
# (loop, method, batch size per process, gradient accumulation), each with a global batch of eight images.
LOGGED = "kgcoop"
IN_TRAINER = list(dict.fromkeys([*COVERING, LOGGED]))
# Who learns in two processes with accumulation does without; so without it the first method, and what else is compared.
IN_TWO = [("accelerate", method, 4, 1) for method in METHODS]
IN_TWO += [("trainer", method, 4, 1) for method in (COVERING[0], *IN_PARTS, LOGGED)]
IN_TWO += [("trainer", method, 2, 2) for method in IN_TRAINER]
IN_TWO += [
    ("accelerate", method, 2, 2) for method in COVERING if method == COVERING[0] or "extra_losses" in traits(method)
]


def in_one(loop: str, method: str, batch_size: int, accumulation: int) -> tuple:
    """The run in one process that learns the same as this one in two."""
    return (loop, method, batch_size, 2 * accumulation) if method in IN_PARTS else (loop, method, 8, 1)


IN_ONE = list(dict.fromkeys(in_one(*run) for run in IN_TWO))


def run_worker(folder: Path, tokenizer: str, n_processes: int, runs: list) -> dict[tuple, dict]:
    """Train in `n_processes`; the results by run."""
    settings = {"tokenizer": tokenizer, "steps": STEPS, "runs": runs}
    settings |= {"folder": str(folder / "out"), "results": str(folder / f"results-{n_processes}.json")}
    file = folder / f"settings-{n_processes}.json"
    file.write_text(json.dumps(settings))
    for done in run_ranks(n_processes, WORKER, file):
        assert done.returncode == 0, done.stderr[-4000:]
    return dict(zip(runs, json.loads(Path(settings["results"]).read_text()), strict=True))


def by_step(losses: list[float]) -> list[float]:
    """The plain loop notes every micro-batch: their mean is the step's loss."""
    parts = len(losses) // STEPS
    assert len(losses) == parts * STEPS > 0
    return [sum(losses[index * parts : (index + 1) * parts]) / parts for index in range(STEPS)]


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
    run = (loop, method, batch_size, accumulation)
    one, two = results[(1, *in_one(*run))], results[(2, *run)]
    losses, expected = by_step(two["losses"]), by_step(one["losses"])
    # The Trainer adds up the losses that it notes in float32, whatever the model's precision.
    assert losses == pytest.approx(expected, rel=1e-6 if loop == "trainer" else 1e-9)
    assert expected[0] != pytest.approx(expected[-1], rel=1e-3)
    assert two["eval_loss"] == pytest.approx(one["eval_loss"], rel=1e-9)
    assert math.dist(two["context"], one["context"]) < 1e-9 * math.hypot(*one["context"])


def test_gradients_are_projected_there(results):
    """Without a projection, ProGrad would have learned what CoOp learns from the same start."""
    for loop in LOOPS:
        projected, plain = (results[2, loop, method, 4, 1]["context"] for method in ("prograd", "coop"))
        assert 1e-4 < math.dist(projected, plain) / math.hypot(*plain) < 0.5


@pytest.mark.parametrize(("batch_size", "accumulation"), [(4, 1), (2, 2)])
def test_parts_of_the_loss_are_logged_for_all_processes(results, batch_size, accumulation):
    one, two = results[1, "trainer", LOGGED, 8, 1], results[2, "trainer", LOGGED, batch_size, accumulation]
    assert len(one["kg"]) == STEPS
    assert two["kg"] == pytest.approx(one["kg"], abs=1e-6)  # logged in float32
    assert max(one["kg"]) > 1e-3
