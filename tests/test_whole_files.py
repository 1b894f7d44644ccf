"""Files that are there whole or not at all."""

from pathlib import Path

import pytest

import peft_coop
from peft_coop.whole_files import folder_written_whole, written_whole


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_draft_takes_the_place_of_the_file(tmp_path):
    path = tmp_path / "new" / "result.json"
    for text in ("first", "second"):
        with written_whole(path) as draft:
            draft.write_text(text)
            assert not path.exists() or path.read_text() == "first"
        assert path.read_text() == text
    assert names_in(path.parent) == ["result.json"]


@pytest.mark.parametrize("error", [OSError, RuntimeError, KeyboardInterrupt])
def test_a_write_that_fails_leaves_the_file_before(tmp_path, error):
    path = tmp_path / "result.json"
    path.write_text("before")

    def write_half():
        with written_whole(path) as draft:
            draft.write_text("half")
            raise error("the disk is full")

    with pytest.raises(error, match="the disk is full"):
        write_half()
    assert path.read_text() == "before"
    assert names_in(tmp_path) == ["result.json"]


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder: give the name of a file"), written_whole(tmp_path):
        pytest.fail("there is something to write")
    assert not list(tmp_path.parent.glob("*.draft"))


def test_the_folder_that_a_process_is_in_is_not_exchanged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (Path("."), tmp_path):
        with pytest.raises(FileExistsError, match="is the folder that this process is in"), folder_written_whole(path):
            pytest.fail("there is something to write")
    assert not names_in(tmp_path)


def test_one_place_puts_drafts_into_place():
    files = sorted(Path(peft_coop.__file__).parent.rglob("*.py"))
    assert [file.name for file in files if "os.replace(" in file.read_text(encoding="utf-8")] == ["whole_files.py"]
