"""The examples run, in their smoke mode."""

import json
import math
import re
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate.commands import launch
from coop_layout_files import IMAGENET_VARIANTS, make_coop_layout
from forked import run_forked, run_ranks
from safetensors.torch import load_file

from peft_coop.methods import METHODS

ROOT = Path(__file__).parents[1]
ACCELERATE_LOOP = "accelerate_loop/train_no_trainer.py"
ACCELERATE_LAUNCH = ["--cpu", "--num_processes=1", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no"]


def run(script: str, *arguments: object) -> str:
    """Run an example in a process of its own; what it printed."""
    return printed_by(run_forked(ROOT / "examples" / script, *arguments))


def printed_by(done: subprocess.CompletedProcess) -> str:
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def adapter(folder: Path) -> dict:
    return load_file(folder / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def accelerate_loop(tmp_path_factory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp("accelerate-loop")
    return run(ACCELERATE_LOOP, "--smoke", "--cpu", "--checkpointing_epochs", 1, "--output_dir", folder), folder


def test_accelerate_loop_output(accelerate_loop):
    printed, folder = accelerate_loop
    assert re.fullmatch(
        r"zero-shot: accuracy 0\.\d{4}\n(epoch \d/2: loss \d\.\d{4}, learning rate 0\.\d{6}\n){2}"
        r"learned: accuracy 0\.\d{4}\nsaved to .*\n",
        printed,
    )
    assert [tuple(value.shape) for value in adapter(folder).values()] == [(4, 128)]
    sizes = [file.stat().st_size for file in (folder / "epoch_1").iterdir()]
    assert len(sizes) > 3
    assert sum(sizes) < 60_000  # the adapter and the optimizer, and not the model


def test_accelerate_loop_resumed_ends_where_the_whole_run_did(accelerate_loop, tmp_path):
    checkpoint = accelerate_loop[1] / "epoch_1"
    printed = run(ACCELERATE_LOOP, "--smoke", "--cpu", "--resume_from_checkpoint", checkpoint, "--output_dir", tmp_path)
    assert "resumed after epoch 1\n" in printed
    assert "epoch 1/2" not in printed
    resumed, whole = adapter(tmp_path), adapter(accelerate_loop[1])
    assert resumed.keys() == whole.keys()
    assert all((resumed[name] - value).abs().max() < 1e-6 for name, value in whole.items())


def apart(printed: str) -> tuple[list[str], list[float]]:
    """The words of what was printed, without the folder, and its numbers."""
    text = printed.partition("saved to")[0]
    return re.split(r"\d+\.\d+", text), [float(number) for number in re.findall(r"\d+\.\d+", text)]


def test_accelerate_loop_two_processes(accelerate_loop, tmp_path):
    """Each process has half of the twenty images: the same batches, so the same numbers."""
    arguments = ["--smoke", "--cpu", "--batch_size", 10, "--output_dir", tmp_path]
    ranks = run_ranks(2, ROOT / "examples" / ACCELERATE_LOOP, *arguments)
    printed = "".join(map(printed_by, ranks))
    (words, numbers), (expected_words, expected) = (apart(each) for each in (printed, accelerate_loop[0]))
    assert words == expected_words
    assert numbers == pytest.approx(expected, abs=2e-4)  # rounded to four places


def test_accelerate_loop_launched_by_accelerate(tmp_path, monkeypatch):
    """Started with the command and in the environment that `accelerate launch` makes."""
    launched = []

    def start(command, env):
        launched.append(run_forked(*command[1:], environment=env))
        return SimpleNamespace(wait=lambda: None, returncode=0)  # what it was is seen below

    monkeypatch.setattr(launch, "subprocess", SimpleNamespace(Popen=start))
    options = "--smoke --method cocoop --batch_size 10 --gradient_accumulation_steps 2 --mixed_precision bf16"
    command = [str(ROOT / "examples" / ACCELERATE_LOOP), *options.split(), "--output_dir", str(tmp_path)]
    launch.launch_command(launch.launch_command_parser().parse_args([*ACCELERATE_LAUNCH, *command]))
    [done] = launched
    assert "learned: accuracy" in printed_by(done)
    assert len(adapter(tmp_path)) == 5


def test_benchmark_measures_three_forms_and_two_sources_of_features(tmp_path):
    run("benchmark/bench.py", "--smoke", "--output", tmp_path / "results.json")
    results = json.loads((tmp_path / "results.json").read_text())
    [row] = results["table"]
    positions = row["positions"]
    assert (positions["padded"], positions["trimmed"]) == (5 * 77, 5 * 10)
    assert positions["ideal"] <= positions["tree"] == 25
    assert row["difference"] < 1e-5  # the forms compute the same features
    assert min(row[name] for name in ("seconds", "trimmed_seconds", "padded_seconds", "peak_bytes")) > 0
    for name in ("ratio", "trimmed_ratio"):
        assert row[name] == pytest.approx(row[f"{name.replace('ratio', '') or 'padded_'}seconds"] / row["seconds"])
    assert [cached["batch"] for cached in results["cached"]] == [4, 2]
    for cached in results["cached"]:
        assert cached["ratio"] == pytest.approx(cached["pixels_seconds"] / cached["cached_seconds"])
        assert cached["head_seconds"] > 0
    world = run("benchmark/compositions.py", "--smoke", "--alone", "world")  # as in a process of its own
    assert json.loads(world)["scored"] == 10
    run("benchmark/compositions.py", "--smoke", "--output", tmp_path / "results.json")
    compositions = json.loads((tmp_path / "results.json").read_text())["compositions"]
    assert compositions["evaluation"]["nodes"] == 4 + 7 + 2 * 7 * 9
    assert max(compositions[kind]["difference"] for kind in ("evaluation", "training")) < 1e-4
    assert compositions["world"]["bank_bytes"] == 7 * 9 * 64 * 4
    run("benchmark/deep_prompts.py", "--smoke", "--output", tmp_path / "deep.json")  # compares what the forms compute
    text, own, vision, teacher = json.loads((tmp_path / "deep.json").read_text()).values()
    assert own["ours_gflop"] < own["hooks_gflop"] / 8
    assert min(teacher.values()) > 0
    assert text["ours_gflop"] < text["hooks_gflop"] / 8
    assert vision["ours_gflop"] == vision["hooks_gflop"] > vision["none_gflop"]
    run("benchmark/report.py", "--folder", tmp_path)
    written = (tmp_path / "results.md").read_text()
    assert "| OxfordPets (5), unified, end, M = 4 | 385 | 50 | 25 | 25 |" in written
    assert "| from pixels | from features computed once | ratio | linear head on these |" in written
    assert "| all pairs, no gradient | 63 | 137 | 4,851 | 504 |" in written


def test_few_shot_on_a_folder_learns_saves_and_loads(tmp_path):
    printed = run("few_shot_own_folder/train_on_folder.py", "--smoke", "--output_dir", tmp_path)
    assert "10 classes, 160 images to learn from, 40 to test on\n" in printed
    zero_shot, learned = (float(number) for number in re.findall(r": accuracy (\d\.\d{4})", printed))
    assert 0.3 < zero_shot < learned
    assert re.search(r"^a test image of '\w+': \w+ 0\.\d\d, \w+ 0\.\d\d$", printed, re.MULTILINE)
    assert re.search(r"^among other classes: digit \d\.\d\d, red circle \d\.\d\d$", printed, re.MULTILINE)
    assert [tuple(value.shape) for value in adapter(tmp_path).values()] == [(16, 128)]


def test_prompt_and_lora_learn_together_and_merge(tmp_path):
    printed = run("prompt_and_lora/prompt_and_lora.py", "--smoke", "--output_dir", tmp_path)
    accuracies = dict(re.findall(r"^([\w\- ]+): .*accuracy (0\.\d{4})$", printed, re.MULTILINE))
    assert list(accuracies) == ["zero-shot", "prompt alone", "prompt and LoRA", "loaded", "merged"]
    assert float(accuracies["zero-shot"]) < float(accuracies["prompt and LoRA"])
    assert accuracies["prompt and LoRA"] == accuracies["loaded"]
    assert float(accuracies["merged"]) == pytest.approx(float(accuracies["loaded"]), abs=0.005)
    assert [tuple(value.shape) for value in adapter(tmp_path).values()] == [(4, 128)]
    assert all("vision_model" in name for name in adapter(tmp_path / "vision"))


def table_rows(printed: str) -> dict[str, list[str]]:
    """The cells of a Markdown table by the first of their row."""
    rows = [line.strip("|").split("|") for line in printed.splitlines() if line.startswith("|")]
    return {name.strip(): [cell.strip() for cell in cells] for name, *cells in rows}


def test_base_to_new_prints_its_table_and_draws(tmp_path):
    rows = table_rows(run("base_to_new/base_to_new.py", "--smoke", "--output_dir", tmp_path))
    assert {"zero-shot CLIP", "linear probe", "CoOp", "CoCoOp"} < rows.keys()
    assert rows["method"] == ["base", "new", "H", "seeds"]
    assert rows["linear probe"][1:] == ["–", "–", "1"]
    base, new, harmonic_mean, _ = map(float, rows["CoCoOp"])
    assert harmonic_mean == pytest.approx(2 * base * new / (base + new), abs=0.02)
    files = {file.name for file in (tmp_path / "report").iterdir()}
    assert files >= {"report.md", "report.csv", "base-to-new.png", "base-to-new.pdf"}


def test_domain_generalisation_tests_on_changed_images(tmp_path):
    rows = table_rows(run("domain_generalisation/domain_generalisation.py", "--smoke", "--output_dir", tmp_path))
    targets = ["digits inverted", "digits blurred", "digits turned"]
    assert rows["method"] == ["digits (source)", *targets, "average of targets", "seeds"]
    assert {"zero-shot CLIP", "linear probe", "CoOp, M = 4", "CoOp, M = 16"} < rows.keys()
    source, *accuracies, average, _ = map(float, rows["zero-shot CLIP"])
    assert max(accuracies) < source
    assert average == pytest.approx(sum(accuracies) / 3, abs=0.02)
    assert (tmp_path / "report" / "report.csv").exists()


def test_domain_generalisation_from_imagenet(tmp_path):
    """In a folder laid out as the original's."""
    for name in ("imagenet", *IMAGENET_VARIANTS):
        make_coop_layout(tmp_path / "data", name)
    arguments = ["--smoke", "--data", tmp_path / "data", "--output_dir", tmp_path / "output"]
    rows = table_rows(run("domain_generalisation/domain_generalisation.py", *arguments))
    assert rows["method"] == ["imagenet (source)", *IMAGENET_VARIANTS, "average of targets", "seeds"]
    assert len(rows["CoOp, M = 16"]) == 7


def test_augmented_views_compares_five_ways(tmp_path):
    printed = run("augmented_views/compare.py", "--smoke", "--output", tmp_path)
    rows = table_rows(printed)
    ways = ["fixed features", "--views 1", "--views 4", "--views 16", "--augment"]
    assert [name.strip("`") for name in rows[""]] == ways
    assert all(re.fullmatch(r"\d+\.\d ± \d+\.\d \(\d+\.\d s\)", cell) for cell in rows["digits, 1 shot"])
    results = json.loads((tmp_path / "results.json").read_text())
    assert [(each["seed"], each["way"]) for each in results] == [(seed, way) for seed in (1, 2) for way in ways]
    by_way = {way: [each["accuracy"] for each in results if each["way"] == way] for way in ways}
    for way in ("--views 4", "--views 16"):  # there are two epochs
        assert by_way[way] == pytest.approx(by_way["--augment"], abs=0.005)
    assert by_way["--views 4"] != pytest.approx(by_way["fixed features"], abs=0.005)
    assert (tmp_path / "accuracy.png").stat().st_size > 5000
    again = run("augmented_views/compare.py", "--smoke", "--output", tmp_path)
    assert table_rows(again) == rows  # finished runs are not done again: the seconds are the same


def test_siglip_learning_rate_compares_three_losses(tmp_path):
    folder, figures = tmp_path / "siglip", tmp_path / "figures.json"
    arguments = ["--smoke", "--siglip", folder, "--output", figures]
    printed = run("siglip_learning_rate/learning_rates.py", *arguments)
    losses = json.loads(figures.read_text())["digits"]
    assert list(losses) == ["CLIP, softmax", "SigLIP, softmax", "SigLIP, sigmoid"]
    assert all(f"digits  {loss}  zero-shot {100 * row['zero_shot']:.1f}  " in printed for loss, row in losses.items())
    first_gradients = [row["first_gradient"] for row in losses.values()]
    assert len(set(first_gradients)) == 3
    assert all(0 < row["accuracy"]["0.02"] < 1 for row in losses.values())
    scale, bias = (load_file(folder / "model.safetensors")[name].item() for name in ("logit_scale", "logit_bias"))
    assert 20 < math.exp(scale) < 116
    assert -13 < bias < -11


def test_demo_learning_rates_tries_images_that_nothing_was_learned_from(tmp_path):
    rows = table_rows(run("demo_learning_rates/learning_rates.py", "--smoke", "--output", tmp_path))
    assert rows["method"] == ["0.0025", "best"]
    digits, shapes, both = (float(rows[f"vpt, {name}"][0]) for name in ("digits", "shapes", "mean"))
    assert both == pytest.approx((digits + shapes) / 2, abs=0.11)
    [of_shapes] = tmp_path.glob("without-draw-1/base-to-new/*/demo/*/seed1/result.json")
    assert json.loads(of_shapes.read_text())["results"]["base"]["accuracy"] == pytest.approx(shapes / 100, abs=0.001)


def test_method_comparison_fills_in_what_is_missing(tmp_path):
    printed = run("method_comparison/run.py", "--smoke", "--output", tmp_path)
    rows = table_rows(printed)
    assert list(rows)[2:] == ["zero-shot CLIP", "CoOp", "IA3"]
    records = {file.name: json.loads(file.read_text()) for file in (tmp_path / "results").iterdir()}
    names = {"zero-shot": "zero-shot CLIP", "coop": "CoOp", "ia3": "IA3"}
    assert set(records) == {f"{key}--digits-2shots-seed1.json" for key in names}
    for key, name in names.items():
        record = records[f"{key}--digits-2shots-seed1.json"]
        assert record["run_info"]["experiment_name"] == f"{key}/digits-2shots-seed1"
        train = record["train_info"]
        assert train["num_total_params"] - train["num_trainable_params"] == 1_393_025
        assert (train["num_trainable_params"] > 0) == (train["file_size"] > 0) == (key != "zero-shot")
        assert train["accelerator_memory_max"] >= train["accelerator_memory_reserved_99th"] >= 0
        assert rows[name][0] == f"{100 * train['metrics'][-1]['test accuracy']:.1f}"
    assert records["ia3--digits-2shots-seed1.json"]["run_info"]["peft_config"]["peft_type"] == "IA3"
    for name in ("seconds", "bytes"):
        assert (tmp_path / f"accuracy-over-{name}.png").stat().st_size > 5000
    (tmp_path / "results" / "coop--digits-2shots-seed1.json").unlink()
    again = run("method_comparison/run.py", "--smoke", "--output", tmp_path)
    assert again.splitlines()[0] == "coop, seed 1"  # the only one that is done again
    assert len([line for line in again.splitlines() if ", seed " in line]) == 1
    assert table_rows(again)["CoOp"][0] == rows["CoOp"][0]


def test_method_comparison_shows_what_it_has_measured(tmp_path):
    """The table of its page is that of the records beside it, which hold every method."""
    folder = ROOT / "examples" / "method_comparison"
    records = [json.loads(file.read_text()) for file in (folder / "results").glob("*.json")]
    keys = {record["run_info"]["experiment_name"].partition("/")[0] for record in records}
    prompts = {key for key, method in METHODS.items() if "few-shot" in method.protocols}
    assert keys == prompts | {"zero-shot", "lora", "ia3", "layer-norm", "two-stage"}
    shutil.copytree(folder / "results", tmp_path / "results")
    printed = run("method_comparison/run.py", "--output", tmp_path)  # nothing is missing
    table = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(table) == len(keys) + 2
    assert "\n".join(table) in (folder / "README.md").read_text()
    assert (folder / "results.md").read_text() == "\n".join(table) + "\n"
