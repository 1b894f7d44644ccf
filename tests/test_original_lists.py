"""The original's own lists of images, read without running anything that such a file may contain."""

import json
import pickle
import sys
import types
from pathlib import Path

import pytest
from coop_layout_files import make_coop_layout, wnid

from peft_coop.data import draw_indices, few_shot_indices, load_data
from peft_coop.data.images import undecoded
from peft_coop.data.original_pickles import Item, read_items
from peft_coop.evaluation import draw_images

MODULE = "dassl.data.datasets.base_dataset"


@pytest.fixture(params=[2, 4, 5], ids=lambda protocol: f"protocol{protocol}")
def write(request, monkeypatch):
    """Writes lists as the original does: entries of its own class, with absolute paths."""

    class Datum:
        def __init__(self, path, label, class_name):
            self._impath, self._label, self._domain, self._classname = path, label, 0, class_name

    def written(path: Path, **splits) -> Path:
        module = types.ModuleType(MODULE)
        Datum.__module__, Datum.__qualname__, module.Datum = MODULE, "Datum", Datum
        path.parent.mkdir(parents=True, exist_ok=True)
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "dassl", types.ModuleType("dassl"))
            patch.setitem(sys.modules, MODULE, module)
            content = {split: [Datum(*entry) for entry in entries] for split, entries in splits.items()}
            path.write_bytes(pickle.dumps(content, protocol=request.param))
        return path

    return written


def paths_of(images) -> list[str]:
    return [image["path"] for image in undecoded(images, "image")["image"]]


def moved(made, data, split: str, rows: list[int]) -> list[tuple[str, int, str]]:
    """Entries of these rows, as another machine had them."""
    part = getattr(data, split)
    paths, labels = paths_of(part), list(part["label"])
    root = str(made.folder.parent)
    return [(paths[row].replace(root, "/elsewhere/DATA"), labels[row], data.class_names[labels[row]]) for row in rows]


def test_the_originals_entries_are_read(write, tmp_path):
    path = write(tmp_path / "shot_1-seed_1.pkl", train=[("/a/b.jpg", 3, "hen")], val=[])
    assert read_items(path) == {"train": [Item("/a/b.jpg", 3, "hen")], "val": []}
    assert "dassl" not in sys.modules


def test_a_kept_draw_is_taken(write, tmp_path):
    """Instead of the one that the seed gives, wherever DATA lay when it was written."""
    made = make_coop_layout(tmp_path, "caltech101")
    data = load_data(made.source)
    train, val = [7, 2, 12], [1, 4]
    drawn = few_shot_indices(data.train["label"], data.val["label"], 1, 1)
    assert (train, val) != drawn
    entries = {"train": moved(made, data, "train", train), "val": moved(made, data, "val", val)}
    write(made.folder / "split_fewshot" / "shot_1-seed_1.pkl", **entries)
    data = load_data(made.source)
    assert draw_indices(data, 1, 1) == (train, val)
    images = draw_images(data, 1, 1)
    assert paths_of(images.train) == [paths_of(data.train)[row] for row in train]
    assert draw_indices(data, 1, 2) == few_shot_indices(data.train["label"], data.val["label"], 1, 2)
    assert data.notes == ("the few images of a draw are those that split_fewshot has for it (shot_1-seed_1.pkl)",)


def test_imagenet_in_the_originals_order(write, tmp_path):
    """Its draws follow from the order in which the file system gave the images."""
    made = make_coop_layout(tmp_path, "imagenet")
    data = load_data(made.source)
    assert "are not those of the original" in data.notes[0]
    backwards = {split: list(range(len(getattr(data, split))))[::-1] for split in ("train", "test")}
    entries = {split: moved(made, data, split, rows) for split, rows in backwards.items()}
    write(made.folder / "preprocessed.pkl", **entries)
    ordered = load_data(made.source)
    assert ordered.notes == ()
    assert ordered.class_names == data.class_names
    for split in ("train", "test"):
        assert paths_of(getattr(ordered, split)) == paths_of(getattr(data, split))[::-1]
        assert list(getattr(ordered, split)["label"]) == list(getattr(data, split)["label"])[::-1]
    drawn = [paths_of(each.train)[row] for each in (data, ordered) for row in draw_indices(each, 1, 1)[0]]
    assert sorted(drawn[:4]) != sorted(drawn[4:])


def test_imagenets_kept_draws_have_no_validation_images(write, tmp_path):
    made = make_coop_layout(tmp_path, "imagenet")
    data = load_data(made.source)
    write(made.folder / "split_fewshot" / "shot_2-seed_3.pkl", train=moved(made, data, "train", [3, 5]))
    data = load_data(made.source)
    assert draw_indices(data, 2, 3) == ([3, 5], [])
    assert len(data.notes) == 2


def test_images_left_out_as_unreadable_are_left_out_of_a_kept_draw(write, tmp_path):
    made = make_coop_layout(tmp_path, "dtd")
    data = load_data(made.source)
    write(made.folder / "split_fewshot" / "shot_1-seed_1.pkl", train=moved(made, data, "train", [6, 1]), val=[])
    broken = paths_of(data.train)[0], paths_of(data.train)[6]
    for path in broken:
        Path(path).write_bytes(b"no image")
    with pytest.warns(UserWarning, match="Left out 2 of"):
        data = load_data(made.source, skip_corrupt=True)
    assert draw_indices(data, 1, 1) == ([0], [])


class Attack:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_nothing_in_a_list_is_run(tmp_path, protocol):
    made = make_coop_layout(tmp_path / "data", "caltech101")
    trace = tmp_path / "trace"
    path = made.folder / "split_fewshot" / "shot_1-seed_1.pkl"
    path.parent.mkdir()
    path.write_bytes(pickle.dumps({"train": [Attack(trace)]}, protocol=protocol))
    data = load_data(made.source)
    with pytest.raises(
        ValueError, match=r"shot_1-seed_1\.pkl cannot be read: it contains .*(Path|getattr).*could run code"
    ):
        draw_images(data, 1, 1)
    assert not trace.exists()
    pickle.loads(path.read_bytes())  # the file would do it
    assert trace.exists()


def test_what_hangs_on_the_entrys_class_is_out_of_reach(tmp_path):
    """Protocol 4 finds attributes of attributes by one dotted name."""
    name = b"Datum.__new__.__globals__"
    module = MODULE.encode()
    code = b"\x80\x04" + b"\x8c" + bytes([len(module)]) + module + b"\x8c" + bytes([len(name)]) + name + b"\x93."
    path = tmp_path / "list.pkl"
    path.write_bytes(code)
    with pytest.raises(ValueError, match=r"it contains .*Datum\.__new__\.__globals__"):
        read_items(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no pickle", r"list\.pkl cannot be read: it is no pickle, or damaged"),
        (b"", r"list\.pkl cannot be read: it is no pickle, or damaged"),
        (pickle.dumps([1]), r"must hold lists of images by split, got list"),
        (pickle.dumps({"train": 1}), r"must hold lists of images by split, got dict"),
        (pickle.dumps({"train": ["a.jpg"]}), r"must hold entries of a path, a label and a class name, got 'a\.jpg'"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    path = tmp_path / "list.pkl"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_items(path)


def test_lists_of_other_images_are_refused(write, tmp_path):
    made = make_coop_layout(tmp_path, "ucf101")
    path = made.folder / "split_fewshot" / "shot_1-seed_1.pkl"
    data = load_data(made.source)
    (first, label, name), *_ = moved(made, data, "train", [0])
    write(path, train=[(first + ".png", label, name)])
    with pytest.raises(ValueError, match=r"A draw kept in split_fewshot is of other images .* no image of that split"):
        draw_indices(data, 1, 1)
    write(path, train=[(first, label + 1, name)])
    with pytest.raises(ValueError, match=rf"of class {label + 1} is of class {label} there"):
        draw_indices(data, 1, 1)
    for place in ("/etc/passwd", "/x/ucf101/UCF-101-midframes/../../../etc/passwd"):
        write(path, train=[(place, 0, name)])
        with pytest.raises(ValueError, match=r"names '.*passwd', which is not in a folder ucf101/UCF-101-midframes"):
            draw_indices(data, 1, 1)


def test_imagenets_list_of_other_images_is_refused(write, tmp_path):
    made = make_coop_layout(tmp_path, "imagenet")
    data = load_data(made.source)
    entries = {split: moved(made, data, split, list(range(len(getattr(data, split))))) for split in ("train", "test")}
    write(made.folder / "preprocessed.pkl", **entries | {"train": entries["train"][1:]})
    with pytest.raises(ValueError, match=rf"preprocessed\.pkl lists other images, .*{wnid(0)}.* is only here"):
        load_data(made.source)
    write(made.folder / "preprocessed.pkl", **entries | {"test": [*entries["test"], entries["test"][0]]})
    with pytest.raises(ValueError, match=r"preprocessed\.pkl lists other images, or some twice"):
        load_data(made.source)
    changed = [(path, (label + 1) % 4, name) for path, label, name in entries["train"]]
    write(made.folder / "preprocessed.pkl", **entries | {"train": changed})
    with pytest.raises(ValueError, match=r"preprocessed\.pkl lists other images"):
        load_data(made.source)


def test_the_note_reaches_the_command_line(tmp_path, capsys):
    from peft_coop.cli import main

    made = make_coop_layout(tmp_path, "imagenet")
    out = tmp_path / "out"
    main(["train", "--data", made.source, "--shots", "1", "--epochs", "1", "--output", str(out), "--json"])
    captured = capsys.readouterr()
    assert "are not those of the original" in captured.err
    assert json.loads(captured.out)["num_train"] == 4
