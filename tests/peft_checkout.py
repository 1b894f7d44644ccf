"""A checkout of PEFT, whose tests are imported and not copied."""

import importlib
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import peft
import pytest

PACKAGE = "tests_of_peft"


def find_checkout(given: str) -> Path:
    """The folder of a checkout.

    Raises:
        CollectError: if it is none.
    """
    usage = "call `make peft-suite PEFT_CHECKOUT=/path/to/peft` with a clone of https://github.com/huggingface/peft"
    if not given:
        raise pytest.Collector.CollectError(f"`PEFT_CHECKOUT` is not set: {usage}.")
    folder = Path(given).expanduser().resolve()
    if not (folder / "tests" / "testing_common.py").is_file():
        raise pytest.Collector.CollectError(
            f"`PEFT_CHECKOUT` is no checkout of PEFT: {given!r} has no tests/testing_common.py; {usage}."
        )
    return folder


def import_tests(checkout: Path, name: str) -> ModuleType:
    """A module of the checkout's tests, which import each other as parts of one package.

    Raises:
        CollectError: if it needs a name that the installed PEFT lacks, or a library that is not there.
    """
    if PACKAGE not in sys.modules:
        spec = spec_from_file_location(PACKAGE, checkout / "tests" / "__init__.py")
        sys.modules[PACKAGE] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[PACKAGE])
    try:
        return importlib.import_module(f"{PACKAGE}.{name}")
    except ImportError as error:
        raise pytest.Collector.CollectError(
            f"tests/{name}.py of {checkout} does not run with PEFT {peft.__version__}, which is installed: {error}. "
            "Check out a commit of this version."
        ) from error
