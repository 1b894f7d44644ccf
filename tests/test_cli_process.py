"""The command line as a process: what it imports, Ctrl-C, and output that nobody reads any more."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest
import transformers
from packaging.version import Version

import peft_coop
from peft_coop import recipes
from peft_coop.cli import main, process
from peft_coop.demo import LEARNING_RATE
from peft_coop.startup import starts_as_command

HEAVY = {"torch", "transformers", "peft", "numpy", "PIL", "datasets", "accelerate", "safetensors", "huggingface_hub"}
# What `import peft` does without, and takes a tenth of a second or more by itself.
NOT_IMPORTED = {"datasets", "pandas", "pyarrow", "matplotlib", "sklearn", "evaluate", "transformers.trainer"}
NOT_IMPORTED |= {"fastapi", "gradio", "onnx", "onnxruntime", "openvino", "av", "cv2"}
NOT_IMPORTED |= {
    f"transformers.models.{name}.modeling_{name}" for name in ("segformer", "upernet", "siglip", "chinese_clip")
}
if Version(transformers.__version__) < Version("5.22"):
    NOT_IMPORTED -= {"pandas", "pyarrow", "sklearn", "av"}  # which it imported with its models
SCRIPT = "import sys\nfrom peft_coop.cli import start\nsys.exit(start())\n"


@pytest.fixture
def script(tmp_path):
    """What pip installs for the entry point."""
    path = tmp_path / "peft-coop"
    path.write_text(SCRIPT)
    return path


@pytest.fixture
def process_state(monkeypatch):
    """What `start` sets for the whole process."""
    handler = signal.getsignal(signal.SIGINT)
    monkeypatch.setattr(sys, "unraisablehook", sys.unraisablehook)
    yield
    signal.signal(signal.SIGINT, handler)


def python(*arguments, **options):
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


def imported(stderr):
    """Top-level names in what `-X importtime` prints."""
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in stderr.splitlines() if "|" in line}


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["benchmark", "few-shot", "--help"], ["train"]])
@pytest.mark.parametrize("way", ["module", "script"])
def test_nothing_heavy_is_imported_for_the_arguments(arguments, way, script):
    started = ["-m", "peft_coop"] if way == "module" else [script]
    result = python("-X", "importtime", *started, *arguments)
    assert result.returncode == (2 if arguments == ["train"] else 0)
    modules = imported(result.stderr)
    assert "peft_coop" in modules
    assert not modules & HEAVY


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert re.match(rf"peft-coop {peft_coop.__version__} \(Python \S+, torch \S+, ", capsys.readouterr().out)


def test_the_help_tells_the_learning_rates(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    words = " ".join(capsys.readouterr().out.split())
    assert f"the paper's, {recipes.LEARNING_RATE} for most; with the demo's CLIP {LEARNING_RATE}, and" in words


@pytest.mark.parametrize(
    ("argv", "orig_argv", "expected"),
    [
        (["-m", "--help"], ["python", "-X", "dev", "-m", "peft_coop", "--help"], True),
        (["-m"], ["python", "-m", "peft_coop"], True),
        (["/usr/bin/peft-coop", "train"], ["python", "/usr/bin/peft-coop", "train"], True),
        (["peft-coop.exe"], ["python", "peft-coop.exe"], True),
        (["-m", "-m", "peft_coop"], ["python", "-m", "other", "-m", "peft_coop"], False),
        (["-m"], ["python", "-m", "other"], False),
        (["peft-coop.py"], ["python", "peft-coop.py"], False),
        (["train.py", "peft-coop"], ["python", "train.py", "peft-coop"], False),
        ([""], ["python"], False),
        ([], ["python"], False),
    ],
)
def test_only_the_command_line_puts_the_imports_off(argv, orig_argv, expected, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("peft_coop.cli")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", orig_argv)
    assert starts_as_command() is expected


def test_an_interrupt_ends_the_process_until_the_command_runs():
    code = "import sys, signal; sys.argv[0] = 'peft-coop'; import peft_coop; assert 'torch' not in sys.modules; "
    result = python("-c", code + "signal.raise_signal(signal.SIGINT)")
    assert result.returncode == -signal.SIGINT
    assert result.stderr == ""


def test_the_package_is_complete_when_a_command_runs(script, tmp_path):
    """And an interrupt is an exception there. What takes long to import, and PEFT does without, has waited."""
    script.write_text(
        "import signal, sys\n"
        "from peft_coop.cli import report, start\n"
        "def run(options):\n"
        "    import peft, peft_coop\n"
        "    print(peft_coop.CoOpConfig.__name__, peft.PeftType('COOP').value)\n"
        f"    print({NOT_IMPORTED} & sys.modules.keys(), 'torch' in sys.modules)\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "report.run_report = run\n"
        "raise SystemExit(start())\n"
    )
    result = python(script, "report", tmp_path)
    assert result.stdout == "CoOpConfig COOP\nset() True\n"
    assert result.returncode == 130
    assert result.stderr.strip() == "peft-coop: stopped; the same command goes on from here."


@pytest.mark.usefixtures("process_state")
def test_an_interrupt_in_a_destructor_is_not_lost(capsys, monkeypatch):
    class Interrupted:
        def __del__(self):
            raise KeyboardInterrupt

    def run(options):
        thing = Interrupted()
        del thing
        time.sleep(60)
        raise AssertionError("the interrupt was lost")

    monkeypatch.setattr("peft_coop.cli.report.run_report", run)
    assert process.start(["report", "runs"]) == 130
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("arguments", ["['--help']", "['report', 'runs']"])
def test_output_that_is_not_read_ends_quietly(arguments, tmp_path):
    script = tmp_path / "peft-coop"  # what is called so imports only what it needs
    script.write_text(
        "from peft_coop.cli import report, start\n"
        "def run(options):\n"
        "    for _ in range(10_000): print('a line', flush=True)\n"
        "report.run_report = run\n"
        f"raise SystemExit(start({arguments}))\n"
    )
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run([sys.executable, script], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert result.stderr == ""
    assert result.returncode == 141


def test_another_broken_pipe_is_told(capsys, monkeypatch):
    def run(options):
        raise BrokenPipeError(32, "the server hung up")

    monkeypatch.setattr("peft_coop.cli.report.run_report", run)
    assert main(["report", "runs"]) == 2
    assert "the server hung up" in capsys.readouterr().err
