"""Measurements in a process that does nothing else."""

import json
import subprocess
import sys

from cases import HERE


def in_own_process(script: str, *arguments: str) -> dict:
    """What a script of this folder prints in its last line, as JSON."""
    command = [sys.executable, str(HERE / script), *arguments]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(printed.splitlines()[-1])
