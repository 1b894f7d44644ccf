"""Images of attributes and objects: candidates, labels among them, features, and the summary."""

import pytest
from conftest import make_clip
from czsl_files import make_czsl
from datasets import Dataset
from transformers import CLIPImageProcessor, CLIPModel

from peft_coop.data import load_compositions, pair_names, with_image_embeds, with_pair_labels


@pytest.fixture
def data(tmp_path):
    return load_compositions(make_czsl(tmp_path).source)


def words(data, row) -> tuple[str, str]:
    return data.attributes[row["attribute"]], data.objects[row["object"]]


def test_candidates_of_both_worlds(data):
    assert data.closed_world() == sorted({*data.train_pairs, *data.test_pairs})
    assert data.closed_world("val") == sorted({*data.train_pairs, *data.val_pairs})
    assert data.open_world()[:4] == [("new", "car"), ("new", "cat"), ("new", "house"), ("old", "car")]
    assert len(data.open_world()) == 9


@pytest.mark.parametrize("world", ["closed_world", "open_world"])
def test_labels_say_which_candidate_an_image_shows(data, world):
    candidates = getattr(data, world)()
    labelled = with_pair_labels(data.test, candidates)
    assert [candidates[row["label"]] for row in labelled] == [words(data, row) for row in data.test]
    assert set(labelled.column_names) == {"image", "attribute", "object", "label"}


def test_labels_of_other_candidates_take_their_place(data):
    closed = with_pair_labels(data.train, data.train_pairs)
    assert closed["label"][:] == [0, 0, 1, 1, 2, 2, 3, 3]
    again = with_pair_labels(closed, data.train_pairs[::-1])
    assert again["label"][:] == [3, 3, 2, 2, 1, 1, 0, 0]


def test_no_images_get_no_labels(data):
    labelled = with_pair_labels(data.test.select([]), data.test_pairs)
    assert len(labelled) == 0
    assert labelled.features["label"] == with_pair_labels(data.test, data.test_pairs).features["label"]


def test_pairs_that_are_no_candidates_are_named(data):
    with pytest.raises(ValueError, match=r"^2 of the pairs .* not among the 4 candidates: \('old', 'house'\), \('wet'"):
        with_pair_labels(data.test, data.train_pairs)


def test_a_candidate_twice_is_refused(data):
    with pytest.raises(ValueError, match=r"candidates must differ, \('old', 'car'\) is there twice"):
        with_pair_labels(data.test, [*data.train_pairs, ("old", "car")])


def test_images_without_words_are_refused(data):
    with pytest.raises(ValueError, match=r"'attribute' must be there and be of the type ClassLabel, got None"):
        with_pair_labels(data.test.remove_columns("attribute"), data.test_pairs)
    with pytest.raises(ValueError, match=r"'attribute' must be there and be of the type ClassLabel, got Value"):
        with_pair_labels(Dataset.from_dict({"attribute": [0], "object": [0]}), data.test_pairs)


@pytest.mark.parametrize("label", [-1, None])
def test_images_whose_words_are_held_back_are_refused(data, label):
    labels = [*data.test["object"][:-1], label]
    held_back = data.test.remove_columns("object").add_column("object", labels, feature=data.test.features["object"])
    with pytest.raises(ValueError, match=rf"^Row 5 has no object: it is {label}\.$"):
        with_pair_labels(held_back, data.open_world())


def test_names_of_pairs_are_their_words(tmp_path):
    data = load_compositions(make_czsl(tmp_path, "ut-zap50k").source)
    assert pair_names(data.train_pairs) == ["Faux.Fur Boots.Ankle", "Suede Shoes.Clogs.and.Mules"]
    with pytest.raises(
        ValueError, match=r"\('dark', 'red car'\) and \('dark red', 'car'\) have one name, 'dark red car'"
    ):
        pair_names([("dark", "red car"), ("old", "car"), ("dark red", "car")])


def test_the_summary_counts_words_pairs_and_images(data):
    summary = data.summary
    assert summary.lines() == [
        "mit-states: 3 attributes (new, old, wet), 3 objects (car, cat, house)",
        "pairs: train 4, val 2 (1 unseen), test 3 (2 unseen); images: train 8, val 4 (2 unseen), test 6 (4 unseen)",
    ]
    test = summary.splits["test"]
    assert (test.pairs, test.unseen_pairs, test.images, test.unseen_images) == (3, 2, 6, 4)
    assert (summary.left_out, summary.notes, summary.duplicates) == ((), (), ())
    assert summary.as_dict()["splits"]["val"]["unseen_pairs"] == 1
    assert str(summary).startswith("mit-states: 3 attributes")


def test_the_summary_tells_what_looks_wrong(tmp_path):
    made = make_czsl(tmp_path)
    made.pair_list("train").write_text("old car\nnew house\nold cat\nwet cat\nwet house\n")
    made.pair_list("test").write_text("new house\nold house\nwet car\nold_ car\nslow bus\n")
    copied = made.folder / "images" / made.entries[-1]["image"]
    copied.write_bytes((made.folder / "images" / made.entries[0]["image"]).read_bytes())
    notes = load_compositions(made.source).summary.notes
    assert notes == (
        "without train images: 1 of its pairs (wet house)",
        "without test images: 2 of its pairs (old_ car, slow bus)",
        "attributes that no training pair has: 2 (old_, slow)",
        "objects that no training pair has: 1 (bus)",
        "attributes that read as one: 'old' and 'old_'",
        f"1 of 6 test images are training images too, byte by byte, such as {copied} and "
        f"{made.folder / 'images' / made.entries[0]['image']}",
    )


@pytest.mark.parametrize(("seen", "message"), [(True, "an unseen"), (False, "a seen")])
def test_a_test_of_one_kind_of_pairs_is_told(tmp_path, seen, message):
    made = make_czsl(tmp_path)
    trained = {("old", "car"), ("new", "house"), ("old", "cat"), ("wet", "cat")}
    made.entries = [
        entry for entry in made.entries if entry["set"] != "test" or ((entry["attr"], entry["obj"]) in trained) is seen
    ]
    summary = load_compositions(made.write().source).summary
    assert f"no test image is of {message} pair" in summary.notes


@pytest.fixture
def processor():
    return CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


def test_features_keep_the_words_and_get_labels_of_any_candidates(data, processor, monkeypatch):
    clip, calls, original = make_clip(), [], CLIPModel.get_image_features

    def counted(*given, **named):
        calls.append(1)
        return original(*given, **named)

    def run(**settings):
        settings = {"label_column": None, "keep": ("attribute", "object"), **settings}
        return with_image_embeds(data.test, clip, processor, **settings)

    monkeypatch.setattr(CLIPModel, "get_image_features", counted)

    embeds = run()
    assert set(embeds.column_names) == {"image_embeds", "attribute", "object"}
    assert embeds.features["attribute"] == data.test.features["attribute"]
    for candidates in (data.closed_world(), data.open_world()):
        labelled = with_pair_labels(embeds, candidates)
        assert labelled["label"][:] == with_pair_labels(data.test, candidates)["label"][:]
    with_labels = with_image_embeds(with_pair_labels(data.test, data.test_pairs), clip, processor)
    assert with_labels["image_embeds"][:] == embeds["image_embeds"][:]
    calls.clear()
    assert run()["object"][:] == data.test["object"][:]
    assert not calls
    views = run(views=2)
    assert views["object"][:] == [label for label in data.test["object"] for _ in range(2)]


def test_features_without_any_other_column(data, processor):
    """They are not those that were computed before, with other columns."""
    clip = make_clip()
    with_image_embeds(data.train, clip, processor, label_column=None, keep=["object"])
    embeds = with_image_embeds(data.train, clip, processor, label_column=None)
    assert embeds.column_names == ["image_embeds"]
    kept = with_image_embeds(data.train, clip, processor, label_column="object", keep=["attribute"])
    assert kept["image_embeds"][:] == embeds["image_embeds"][:]
    assert (kept["label"][:], kept["attribute"][:]) == (data.train["object"][:], data.train["attribute"][:])


def test_no_images_give_no_features_of_words(data, processor):
    settings = {"label_column": None, "keep": ("attribute", "object")}
    some, none = (
        with_image_embeds(part, make_clip(), processor, **settings) for part in (data.test, data.test.select([]))
    )
    assert (len(none), none.features) == (0, some.features)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"label_column": None, "keep": ["image"]}, r"`keep` is for columns beside images and labels, got 'image'"),
        ({"label_column": "object", "keep": ["object"]}, r"beside images and labels, got 'object'"),
        (
            {"label_column": None, "keep": ["colour"]},
            r"has no column 'colour', only \['image', 'attribute', 'object'\]",
        ),
        ({}, r"has no column 'label'"),
    ],
)
def test_columns_that_cannot_be_kept_are_refused(data, processor, settings, message):
    with pytest.raises(ValueError, match=message):
        with_image_embeds(data.test, make_clip(), processor, **settings)


def test_the_demos_compositions():
    data = load_compositions("demo:compositions")
    told = data.summary.lines()
    assert told[0].startswith("compositions: 8 attributes (checked, ")
    assert told[1:] == [
        "pairs: train 48, val 64 (16 unseen), test 64 (16 unseen); "
        "images: train 768, val 640 (160 unseen), test 1,280 (320 unseen)"
    ]
    assert len(data.closed_world()) == len(data.closed_world("val")) == 64
    labelled = with_pair_labels(data.test, data.closed_world())
    assert [data.closed_world()[row["label"]] for row in labelled.select([0, 700])] == [
        words(data, data.test[0]),
        words(data, data.test[700]),
    ]
    assert data.flip is False
