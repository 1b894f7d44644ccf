"""What `make peft-suite` says when it is given no checkout of PEFT, or one that does not fit."""

import sys

import pytest
from peft_checkout import PACKAGE, find_checkout, import_tests


@pytest.fixture
def checkout(tmp_path):
    """A folder laid out as PEFT's repository."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "__init__.py").write_text("")
    (tmp_path / "tests" / "testing_common.py").write_text("from .testing_utils import WORD\n")
    (tmp_path / "tests" / "testing_utils.py").write_text("WORD = 'found'\n")
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == PACKAGE]:
        del sys.modules[name]


def test_a_folder_must_be_given():
    with pytest.raises(pytest.Collector.CollectError, match=r"`PEFT_CHECKOUT` is not set: call `make peft-suite PEFT_"):
        find_checkout("")


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(pytest.Collector.CollectError, match=r"/other' has no tests/testing_common\.py; call"):
        find_checkout(f"{tmp_path}/other")


def test_its_tests_are_imported_beside_ours(checkout):
    assert import_tests(find_checkout(str(checkout)), "testing_common").WORD == "found"
    assert PACKAGE in sys.modules
    assert "testing_common" not in sys.modules


def test_one_of_another_version_is_refused(checkout):
    (checkout / "tests" / "testing_utils.py").write_text("from peft import NoSuchConfig\n")
    with pytest.raises(pytest.Collector.CollectError, match=r"does not run with PEFT .* 'NoSuchConfig' from 'peft'"):
        import_tests(checkout, "testing_common")
