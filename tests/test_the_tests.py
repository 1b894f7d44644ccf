"""What holds of every test in this folder."""

import ast
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import LONG_FILES, pytest_collection_modifyitems, pytest_xdist_auto_num_workers
from slow_tests import mark_slow

FILES = sorted(Path(__file__).parent.glob("test_*.py"))


def called(node: ast.AST) -> str:
    """The last name of what is called: "raises" of `pytest.raises(...)`."""
    function = getattr(node, "func", None)
    return getattr(function, "attr", getattr(function, "id", ""))


def can_fail(function: ast.AST, helpers: set[str]) -> bool:
    """Whether something in it is asserted: there, by a library's `assert_...`, or by a helper of the same file."""
    return any(
        isinstance(node, ast.Assert)
        or called(node).startswith(("assert_", "raises", "warns"))
        or called(node) in helpers
        for node in ast.walk(function)
    )


def is_fixture(function: ast.FunctionDef) -> bool:
    return any("fixture" in ast.unparse(decorator) for decorator in function.decorator_list)


def without_assertion(source: str) -> list[str]:
    functions = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    tests = [each for each in functions if each.name.startswith("test_") and not is_fixture(each)]
    helpers = {each.name for each in functions if each not in tests and can_fail(each, set())}
    return [test.name for test in tests if not can_fail(test, helpers)]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_test_asserts_something(file):
    assert without_assertion(file.read_text(encoding="utf-8")) == []


def test_tests_without_assertion_are_found():
    source = """
def check(value):
    assert value

def test_asserts():
    assert 1

def test_raises():
    with pytest.raises(ValueError, match="wrong"):
        f()

def test_compares():
    torch.testing.assert_close(1, 1)

def test_with_a_helper():
    check(1)

class TestSome:
    def test_nothing(self):
        f()

@pytest.fixture
def test_images():
    return []

def test_runs():
    model.forward()
"""
    assert without_assertion(source) == ["test_runs", "test_nothing"]


@pytest.mark.parametrize(
    ("cores", "given", "workers"),
    [
        (1, ["tests"], 0),
        (2, ["tests"], 2),
        (64, ["tests"], 4),
        (2, ["tests/test_tree.py", "tests/test_golden.py"], 2),
        (2, ["tests/test_tree.py::test_a_shared_context_is_the_trunk"], 0),
    ],
)
def test_a_worker_for_every_core_that_may_be_used(cores, given, workers, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    assert pytest_xdist_auto_num_workers(SimpleNamespace(args=given)) == workers


def test_long_files_come_first_in_their_own_order():
    assert set(LONG_FILES) <= {file.stem for file in FILES}
    names = ["test_data", LONG_FILES[1], LONG_FILES[0], LONG_FILES[1]]
    items = [SimpleNamespace(path=Path(f"{name}.py"), name="test", number=number) for number, name in enumerate(names)]
    pytest_collection_modifyitems(SimpleNamespace(args=["one file"], getini=lambda name: ["tests"]), items)
    assert [item.number for item in items] == [2, 1, 3, 0]


class Collected(SimpleNamespace):
    """A test as pytest collects it."""

    def add_marker(self, mark):
        self.marks = [mark.name]


def test_what_is_slow_is_a_test_and_its_first_cases_are_not(monkeypatch):
    monkeypatch.setattr("slow_tests.QUICK", {"test_data": 0, "test_hub::test_push": 1, "test_cli::test_gone": 1})
    names = [("test_data", "test_any"), *[("test_hub", "test_push")] * 2, ("test_hub", "test_push_again")]
    items = [Collected(path=Path(f"{file}.py"), name=name, marks=[]) for file, name in names]
    assert mark_slow(items) == set()  # nobody asked for the file of what is gone
    assert [item.marks for item in items] == [["slow"], [], ["slow"], []]
    assert mark_slow([Collected(path=Path("test_cli.py"), name="test_other")]) == {"test_cli::test_gone"}
