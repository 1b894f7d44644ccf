"""Scripts in processes of their own that need not import torch again: they are forked from a process that has.

A script sees its own arguments, environment and standard output, as from `python SCRIPT …`. Two things differ: what is
listed here is imported already, and environment variables that a library reads when it is imported are as they were
when the first script ran.
"""

import gc
import multiprocessing
import os
import runpy
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from torch.distributed import TCPStore

IMPORTED = ["torch", "transformers", "peft", "accelerate", "datasets", "matplotlib.pyplot", "scipy.stats"]
IMPORTED += ["sklearn.linear_model", "transformers.trainer", "transformers.models.clip.modeling_clip", "peft_coop.cli"]
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(IMPORTED)


def run_forked(script: Path, *arguments: object, environment: Mapping[str, str] | None = None):
    """Run a script; a `CompletedProcess` with what it printed."""
    [done] = _run([script, *arguments], [environment or {}])
    return done


def run_ranks(number: int, script: Path, *arguments: object) -> Sequence[subprocess.CompletedProcess]:
    """Run a script in several processes that find each other, in the environment that `torchrun` makes."""
    store = TCPStore("localhost", 0, is_master=True, wait_for_workers=False)
    common = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True"}
    common |= {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number)}
    return _run(
        [script, *arguments], [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(number)]
    )


def _run(arguments: Sequence[object], environments: Sequence[Mapping[str, str]]) -> list[subprocess.CompletedProcess]:
    """Run the same script in each environment, at once."""
    words = [str(each) for each in arguments]
    with ExitStack() as stack:
        folders = [Path(stack.enter_context(TemporaryDirectory())) for _ in environments]
        processes = [
            PROCESSES.Process(target=_be_the_script, args=(words, {**os.environ, **each}, os.getcwd(), folder))
            for each, folder in zip(environments, folders, strict=True)
        ]
        for process in processes:
            stack.callback(process.kill)
            process.start()
        for process in processes:
            process.join()
        return [
            subprocess.CompletedProcess(
                words, process.exitcode, (folder / "stdout").read_text(), (folder / "stderr").read_text()
            )
            for process, folder in zip(processes, folders, strict=True)
        ]


def _be_the_script(arguments: list[str], environment: dict[str, str], directory: str, folder: Path) -> None:
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT), descriptor)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    gc.freeze()  # a Trainer's collections need not look through what is imported
    sys.argv = arguments
    sys.path.insert(0, str(Path(arguments[0]).parent))
    runpy.run_path(arguments[0], run_name="__main__")
