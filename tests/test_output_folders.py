"""Folders of output: what others have written, or changed, is left as it is."""

import pytest

from peft_coop.cli import main
from peft_coop.evaluation import write_report
from peft_coop.evaluation.output_folders import check_own, put
from peft_coop.evaluation.reports import Run

RUN = Run(
    *("few-shot", "digits", "demo", "coop", "CoOp", {"num_shots": 1}, 1),
    {"test": {"accuracy": 0.5, "macro_accuracy": 0.5, "ece": 0.1, "num_examples": 2}},
)


def draft(folder, **files):
    for name, text in files.items():
        path = folder / "draft" / name.replace("_", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder / "draft"


def test_own_files_are_written_anew_and_others_stay(tmp_path):
    output = tmp_path / "output"
    assert put(draft(tmp_path, a="1", b_c="2"), output) == [output / "a", output / "b" / "c"]
    (output / "other").write_text("of the user")
    put(draft(tmp_path, a="3"), output)
    assert [(output / name).read_text() for name in ("a", "b/c", "other")] == ["3", "2", "of the user"]


@pytest.mark.parametrize("name", ["a", "b/c"])
def test_what_someone_else_wrote_or_changed_is_refused_before_anything_is_written(tmp_path, name):
    output = tmp_path / "output"
    made = draft(tmp_path, a="1", b_c="2")
    (output / name).parent.mkdir(parents=True)
    (output / name).write_text("of the user")
    with pytest.raises(ValueError, match=rf"output/{name} is there already, and not as it was written"):
        put(made, output)
    assert [path.name for path in output.rglob("*") if path.is_file()] == [name[-1]]
    (output / name).unlink()
    put(made, output)
    (output / name).write_text("changed by the user")
    with pytest.raises(ValueError, match=rf"output/{name} is there already"):
        check_own(output, [name])


def test_a_report_does_not_write_over_files_of_others(tmp_path):
    (tmp_path / "report.md").write_text("of the user")
    with pytest.raises(ValueError, match=r"report.md is there already"):
        write_report([RUN], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"report.md"}
    (tmp_path / "report.md").unlink()
    first = write_report([RUN], tmp_path)
    assert write_report([RUN], tmp_path) == first


def test_the_demo_does_not_write_over_an_adapter_of_others(tmp_path, capsys):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "README.md").write_text("of the user")
    assert main(["demo", "--output", str(tmp_path)]) == 2
    assert "adapter/README.md is there already" in capsys.readouterr().err
    assert (tmp_path / "adapter" / "README.md").read_text() == "of the user"


def test_a_picture_of_words_is_not_written_over(tmp_path, capsys):
    (tmp_path / "words.png").write_text("of the user")
    assert main(["interpret", "--adapter", str(tmp_path), "--plot", str(tmp_path / "words.png")]) == 2
    assert "words.png is there already" in capsys.readouterr().err
