"""What the command line says of its options, what it shows while it works, and what it does not write over."""

import dataclasses
import json
import re
import warnings
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from transformers import TrainerCallback
from transformers.integrations import integration_utils

from peft_coop import demo
from peft_coop.cli import main, messages
from peft_coop.cli.method_options import HEEDED, recipe_of
from peft_coop.evaluation import all_baselines
from peft_coop.methods import METHODS
from peft_coop.progress import stage

SHORT = ["--data", "demo:digits", "--shots", "1", "--epochs", "1"]

pytestmark = pytest.mark.usefixtures("figures_are_not_drawn")


def run(capsys, *arguments, code=0):
    assert main([str(argument) for argument in arguments]) == code
    captured = capsys.readouterr()
    return captured.out, captured.err


def benchmark(tmp_path, protocol, *arguments):
    return ["benchmark", protocol, *SHORT, "--seeds", "1", "--output", tmp_path / "runs", *arguments]


@pytest.mark.parametrize(
    ("key", "given", "expected"),
    [
        ("coop", {}, 0.02),
        ("ivlp", {}, 0.01),
        ("ivlp", {"protocol": "composition"}, 0.005),  # which trains all methods alike
        ("ivlp", {"learning_rate": 0.1}, 0.1),
        ("ivlp", {"model": "another"}, None),
    ],
)
def test_each_method_has_its_own_rate_on_the_demos_model(key, given, expected):
    options = {"model": "demo", "protocol": "few-shot", "epochs": None, "batch_size": None, "learning_rate": None}
    assert recipe_of(SimpleNamespace(**options | given), key).get("learning_rate") == expected


def test_rates_of_methods_are_of_methods_that_there_are():
    assert set(demo.loading.METHOD_LEARNING_RATES) <= set(METHODS)
    assert demo.learning_rate("none of them") == demo.LEARNING_RATE


@pytest.fixture
def prompt(tmp_path, capsys):
    run(capsys, "train", *SHORT, "--output", tmp_path / "prompt")
    return tmp_path / "prompt"


def test_options_without_effect_are_told(tmp_path, capsys):
    _, told = run(capsys, "train", *SHORT, "--no-flip", "--workers", "2", "--output", tmp_path / "prompt")
    assert "> --no-flip has no effect without --augment or --views" in told
    assert "> --workers has no effect without --augment or --views" in told
    command = benchmark(tmp_path, "few-shot", "--methods", "zero-shot", "prompt-ensemble")
    _, told = run(capsys, *command, "--n-ctx", "4", "--batch-size", "3")
    for name in ("n-ctx", "epochs", "batch-size"):
        assert f"> --{name} has no effect for zero-shot, prompt-ensemble, which" in told
    assert "--position" not in told
    assert "--report-to" not in told


def test_an_ablation_tells_what_is_no_setting_of_a_method(tmp_path, capsys):
    command = benchmark(tmp_path, "ablation", "--dry-run", "--lengths", "2", "4", "--positions", "end", "front")
    printed, told = run(capsys, *command, "--methods", "coop", "tcp", "vpt")
    assert "> --lengths has no effect for vpt, which have no such setting" in told
    assert "> --positions has no effect for tcp, vpt, which have no such setting" in told
    assert [printed.count(title) for title in ("CoOp", "TCP", "VPT")] == [4, 2, 1]
    _, told = run(capsys, *command, "--methods", "vpt", code=2)
    assert "peft-coop: --lengths is no setting of vpt. --set can give n_ctx_vision, prompt_depth_vision" in told


def test_views_are_learned_from(tmp_path, capsys):
    command = ["train", *SHORT, "--no-flip", "--n-ctx", "1", "--views", "2"]
    _, told = run(capsys, *command, "--output", tmp_path / "prompt")
    assert "view 20/20" in told
    assert "has no effect" not in told
    _, told = run(capsys, *command, "--augment", "--output", tmp_path / "other", code=2)
    assert "peft-coop: --augment draws pixels in every epoch, --views 2 computes features once: give one" in told
    _, told = run(capsys, *benchmark(tmp_path, "few-shot", "--methods", "linear-probe", "--views", "2", "--dry-run"))
    assert "> --views has no effect for linear-probe, which have no use for it" in told
    with pytest.raises(SystemExit, match="2"):
        main([str(word) for word in [*command[:-1], "0", "--output", tmp_path / "other"]])
    assert "argument --views: must be a whole number of 1 or more, got '0'" in capsys.readouterr().err


def test_views_with_what_changes_the_vision_tower(tmp_path, capsys):
    command = benchmark(tmp_path, "few-shot", "--views", "2", "--n-ctx", "1", "--dry-run", "--methods")
    _, told = run(capsys, *command, "image-encoder", "text-bias", code=2)
    assert "--views 2 computes image features once, and image-encoder would change the vision tower: give --aug" in told
    _, told = run(capsys, *command, "maple", code=2)
    assert "and maple would change the vision tower" in told
    printed, told = run(capsys, *command, "all")
    assert re.search("> left out image-encoder, layer-norm, two-stage, lora, maple, .*: --views 2 computes image", told)
    for title, listed in {"text bias": True, "LoRA": False, "CoOp": True, "MaPLe": False}.items():
        assert (f" {title} " in printed) == listed
    command = ["train", *SHORT, "--method", "maple", "--views", "2", "--output", tmp_path / "prompt"]
    _, told = run(capsys, *command, code=2)
    assert "peft-coop: MaPLe changes the vision tower, so that features of views would not be its own" in told


def test_an_unfinished_training_goes_on_with_its_views_only(tmp_path, capsys, optimizer_steps):
    command = ["train", "--data", "demo:digits", "--shots", "1", "--n-ctx", "1", "--epochs", "4"]
    command += ["--output", tmp_path / "prompt", "--views"]
    optimizer_steps.interrupted = 3
    run(capsys, *command, "2", code=130)
    _, told = run(capsys, *command, "3", code=2)
    assert "an unfinished training with --views 2, asked for is 3" in told
    run(capsys, *command, "2")
    assert optimizer_steps.taken == 4


@pytest.mark.parametrize(
    ("method", "unheeded"),
    [
        ("zero-shot", {"epochs", "batch-size", "learning-rate", "views", "no-flip", "workers"}),
        ("gda", {"epochs", "batch-size", "learning-rate"}),
        ("tip-adapter", {"epochs", "batch-size", "learning-rate"}),
        ("tip-adapter-f", {"learning-rate"}),
        ("clip-adapter", set()),
        ("text-bias", set()),
    ],
)
def test_options_of_the_training_that_a_method_has_no_use_for(tmp_path, capsys, method, unheeded):
    command = [*benchmark(tmp_path, "few-shot", "--methods", method), "--batch-size", "3", "--learning-rate", "0.01"]
    _, told = run(capsys, *command, "--views", "2", "--no-flip", "--workers", "1", "--dry-run")
    assert set(re.findall("> --([a-z-]+) has no effect", told)) == unheeded


@pytest.mark.parametrize(
    ("method", "unheeded"),
    [("text-bias", {"augment"}), ("gda", {"augment", "epochs"})]
    + [(key, {"learning-rate"}) for key in ("image-encoder", "layer-norm", "two-stage", "lora")],
)
def test_random_crops_that_a_method_has_no_use_for(tmp_path, capsys, method, unheeded):
    command = [*benchmark(tmp_path, "few-shot", "--methods", method), "--augment", "--dry-run"]
    _, told = run(capsys, *command, *(["--learning-rate", "0.01"] if "learning-rate" in unheeded else []))
    assert set(re.findall("> --([a-z-]+) has no effect", told)) == unheeded


def test_every_baseline_that_learns_heeds_something():
    learning = {method.key: method for method in all_baselines() if method.learns and method.key != "linear-probe"}
    assert set(HEEDED) == set(learning)
    for key, method in learning.items():
        fields = {field.name for field in dataclasses.fields(method)}
        assert ("augment" in HEEDED[key]) == ("augment" in fields)
        assert ("views" in HEEDED[key]) == ("views" in fields)
        assert ("epochs" in HEEDED[key]) == ("num_epochs" in fields)


def test_all_methods_of_a_transfer_are_those_that_can(tmp_path, capsys):
    command = benchmark(tmp_path, "cross-dataset", "--targets", "demo:shapes", "--n-ctx", "1")
    printed, told = run(capsys, *command, "--methods", "all", "--dry-run")
    left_out = "linear probe, GDA with zero-shot"
    assert f"> left out {left_out}: what they learn is for the classes of digits only" in told
    assert "text bias" in printed
    assert "linear probe" not in printed
    _, told = run(capsys, *command, "--methods", "linear-probe", code=2)
    assert "linear probe cannot classify into the classes of another dataset" in told


def test_the_only_bar_of_a_benchmark_tells_the_present_run(tmp_path, capsys):
    _, told = run(capsys, *benchmark(tmp_path, "few-shot", "--methods", "zero-shot", "coop", "text-bias"))
    bars = {line.split(":")[0] for line in told.replace("\r", "\n").splitlines() if "%|" in line}
    assert bars == {"few-shot on digits"}
    assert "run 3/3: CoOp, 1 shot, seed 1, training step 1/1" in told


def test_the_only_bar_of_base_to_new(tmp_path, capsys):
    _, told = run(capsys, *benchmark(tmp_path, "base-to-new", "--methods", "coop", "--n-ctx", "1"))
    bars = {line.split(":")[0] for line in told.replace("\r", "\n").splitlines() if "%|" in line}
    assert bars == {"base-to-new on digits"}


def test_several_datasets_are_one_bar(tmp_path, capsys):
    command = benchmark(tmp_path, "few-shot", "--methods", "zero-shot")
    _, told = run(capsys, *command[:3], "demo:digits", "demo:shapes", *command[4:])
    bars = {line.split(":")[0] for line in told.replace("\r", "\n").splitlines() if "%|" in line}
    assert bars == {"few-shot with demo"}
    assert "dataset 2/2: shapes, few-shot on shapes zero-shot CLIP" in told


@pytest.mark.parametrize("kind", ["folder", "hub"])
def test_a_folder_is_read_without_bars_of_downloads(kind, tmp_path, capsys):
    for name in ("red", "green"):
        for split in ("train", "test"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for index in range(20):  # of fewer, `datasets` shows no bar
                Image.new("RGB", (8, 8), name).save(tmp_path / "data" / split / name / f"{index}.png")
    _, told = run(capsys, "evaluate", "--data", f"{kind}:{tmp_path / 'data'}")
    assert "image features" in told
    for word in ("Downloading", "Generating", "Resolving", "Map"):
        assert word not in told


def test_scores_are_kept_beside_the_adapter_and_in_its_card(tmp_path, capsys):
    printed, _ = run(capsys, "train", *SHORT, "--output", tmp_path / "prompt", "--json")
    result = json.loads(printed)
    kept = json.loads((tmp_path / "prompt" / "scores.json").read_text())
    assert {name: kept[name] for name in result if name != "adapter"} == {
        name: value for name, value in result.items() if name != "adapter"
    }
    card = (tmp_path / "prompt" / "README.md").read_text()
    assert f"value: {result['accuracy']}" in card
    assert "name: digits" in card


def test_scores_go_along_to_the_hub(prompt, capsys, monkeypatch):
    pushed = {}
    monkeypatch.setattr(
        "peft_coop.peft_model.adapters.push_adapters", lambda model, repo, **given: pushed.update(given)
    )
    run(capsys, "push", "--adapter", prompt, "--repo", "me/it")
    scores = json.loads((prompt / "scores.json").read_text())
    assert pushed["metrics"] == {name: scores[name] for name in ("accuracy", "macro_accuracy", "ece")}
    assert pushed["dataset"] == "digits"
    (prompt / "scores.json").write_text("[]")
    _, told = run(capsys, "push", "--adapter", prompt, "--repo", "me/it", code=2)
    assert "scores.json holds no scores" in told


def test_what_the_trainer_reports_to(tmp_path, capsys, monkeypatch):
    class Recorder(TrainerCallback):
        logged = []

        def on_log(self, args, state, control, logs, **kwargs):
            self.logged.append((args.run_name, state.epoch, set(logs)))

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "recorder", Recorder)
    command = ["train", "--data", "demo:digits", "--shots", "1", "--epochs", "3", "--output", tmp_path / "prompt"]
    _, told = run(capsys, *command, "--report-to", "recorder")
    losses = [(name, epoch) for name, epoch, logs in Recorder.logged if {"loss", "learning_rate"} <= logs]
    assert losses == [("CoOp on digits, 1 shot, seed 1", epoch) for epoch in (1, 2, 3)]
    assert "{'loss'" not in told
    _, told = run(capsys, *command[:-1], tmp_path / "other", "--report-to", "nothing", code=2)
    assert "nothing is not supported, only azure_ml" in told


def test_a_package_to_report_to_that_is_missing(tmp_path, capsys, monkeypatch):
    class Missing(TrainerCallback):
        def __init__(self):
            raise RuntimeError("Missing requires missing to be installed. Run `pip install missing`.")

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "missing", Missing)
    _, told = run(capsys, "train", *SHORT, "--output", tmp_path / "prompt", "--report-to", "missing", code=2)
    assert "peft-coop: Nothing can be reported: Missing requires missing to be installed. Run" in told
    assert not (tmp_path / "prompt").exists()


def test_nothing_is_written_over(prompt, tmp_path, capsys):
    for path in (tmp_path / "model.pth.tar-1", tmp_path / "words.png"):
        path.write_text("mine")
    _, told = run(capsys, "convert", prompt, "--to-original", "--output", tmp_path / "model.pth.tar-1", code=2)
    assert "model.pth.tar-1 is there already: give another name, or remove it" in told
    _, told = run(capsys, "interpret", "--adapter", prompt, "--plot", tmp_path / "words.png", code=2)
    assert "words.png is there already" in told
    run(capsys, "convert", prompt, "--to-original", "--output", tmp_path / "new.tar")
    _, told = run(capsys, "convert", tmp_path / "new.tar", "--model", "demo", "--output", prompt, code=2)
    assert "prompt is there already" in told
    assert {path.read_text() for path in (tmp_path / "model.pth.tar-1", tmp_path / "words.png")} == {"mine"}


def test_convert_takes_as_many_names_as_there_are_classes(prompt, tmp_path, capsys):
    run(capsys, "convert", prompt, "--to-original", "--output", tmp_path / "new.tar")
    command = ["convert", tmp_path / "new.tar", "--model", "demo", "--output", tmp_path / "again", "--class-names"]
    _, told = run(capsys, *command, "a", "b", code=2)
    assert "new.tar was learned with 10 classes, got 2 names: give all of them" in told
    run(capsys, *command, *"abcdefghij")
    assert json.loads((tmp_path / "again" / "adapter_config.json").read_text())["class_names"] == list("abcdefghij")
    command = ["convert", prompt, "--to-original", "--output", tmp_path / "x", "--position", "end"]
    _, told = run(capsys, *command, code=2)
    assert "--class-template and --template are for the other direction" in told


def test_weights_that_would_run_code_are_refused_on_one_line(prompt, capsys):
    class Hostile:
        def __reduce__(self):
            return (print, ("executed",))

    (prompt / "adapter_model.safetensors").unlink()
    torch.save({"weight": Hostile()}, prompt / "adapter_model.bin")
    printed, told = run(capsys, "evaluate", "--adapter", prompt, "--data", "demo:digits", code=2)
    assert "executed" not in printed
    assert told.splitlines()[-1].startswith("peft-coop: ")
    assert "Weights only load failed" in told.splitlines()[-1]


def test_a_relative_model_is_saved_by_its_whole_path(tmp_path, capsys, monkeypatch):
    from peft_coop.demo import MODEL_PATH

    (tmp_path / "tiny").symlink_to(MODEL_PATH)
    monkeypatch.chdir(tmp_path)
    run(capsys, "train", *SHORT, "--model", "./tiny", "--output", "prompt")
    monkeypatch.chdir("/")
    run(capsys, "evaluate", "--adapter", tmp_path / "prompt", "--data", "demo:digits")


def test_our_warnings_are_told_and_those_of_libraries_are_not(capsys):
    def warn_as(module):
        exec(
            compile("import warnings; warnings.warn('something\\n is odd', stacklevel=1)", module, "exec"),
            {"__name__": module},
        )

    with warnings.catch_warnings():
        messages.quieten()
        warn_as("transformers.models")
        warn_as("peft_coop.tuners")
        warn_as("peft_coop_of_others")
    assert capsys.readouterr().err == "peft-coop: warning: something is odd\n"


def test_what_is_told_has_a_line_of_its_own_beside_the_bar_and_warnings_come_once(capsys):
    with warnings.catch_warnings():
        messages.quieten()
        with stage("runs", 2) as runs:
            for seed in (1, 2):
                runs.doing(f"seed {seed}")
                exec("import warnings; warnings.warn('the tower is small', stacklevel=1)", {"__name__": "peft_coop.m"})
                messages.say(f"done with {seed}")
                runs.update()
    told = [line for line in re.split(r"[\r\n]+", capsys.readouterr().err) if "peft-coop" in line or ">" in line[:1]]
    assert told == ["peft-coop: warning: the tower is small", "> done with 1", "> done with 2"]


@pytest.mark.parametrize("name", ["nosuch", "./nosuch", "me/nosuch"])
def test_no_such_adapter(capsys, name):
    _, told = run(capsys, "interpret", "--adapter", name, code=2)
    assert f"peft-coop: There is no adapter '{name}': no folder of this name, and none that can be had from" in told


def test_an_adapter_of_another_size_is_one_line(prompt, capsys):
    save_file({"weight": torch.zeros(2)}, prompt / "adapter_model.safetensors")
    _, told = run(capsys, "evaluate", "--adapter", prompt, "--data", "demo:digits", code=2)
    assert told.splitlines()[-1].startswith("peft-coop: ")
