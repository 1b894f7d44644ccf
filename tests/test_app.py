"""What the page of `peft-coop app` does, without the page."""

import json
import socket
import threading
import zipfile
from html import escape

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from PIL import Image

from peft_coop import CoCoOpConfig, CoOpConfig, VPTConfig, demo
from peft_coop.app import SharedClassifier, Shelf, start_without_prompt, write_space
from peft_coop.app.entries import MOST_CHARACTERS, MOST_CLASSES, read_class_name, read_class_names, read_upload
from peft_coop.app.learning import MOST_EXAMPLES, Examples, learn
from peft_coop.app.markup import answer_table
from peft_coop.app.visits import Visits
from peft_coop.cli import main
from peft_coop.cli.app import distinct_titles
from peft_coop.evaluation import FrozenCLIP
from peft_coop.models import OTHER

NAMES = ["zero", "one", "red circle"]
HOSTILE = "<script>alert('1')</script>"

pytestmark = pytest.mark.filterwarnings("ignore:.*does not know words of these class names:UserWarning")


@pytest.fixture(scope="module")
def clip():
    return FrozenCLIP.from_pretrained("demo", "cpu")


@pytest.fixture
def picture(tmp_path):
    image = Image.new("RGB", (60, 48), "white")
    image.paste("black", (10, 10, 20, 40))
    path = tmp_path / "picture.png"
    image.save(path)
    return path


def shared(clip, config=CoOpConfig, **settings):
    torch.manual_seed(0)
    settings = {"class_names": NAMES, **settings}
    model = get_peft_model(demo.load_clip().double(), config(**settings)).eval()
    return SharedClassifier("mine", model, clip)


def pixels(clip, picture):
    return clip.processor(images=read_upload(picture), return_tensors="pt")["pixel_values"].double()


def by_label(answer):
    return {row.label: (row.learned, row.zero_shot) for row in answer.rows}


@pytest.mark.parametrize("config", [CoOpConfig, CoCoOpConfig, VPTConfig])
def test_probabilities_stand_beside_those_of_zero_shot_clip(clip, picture, config):
    classifier = shared(clip, config)
    found = by_label(classifier.answer(read_upload(picture), NAMES))
    model, inputs = classifier.model, {"pixel_values": pixels(clip, picture)}
    with torch.no_grad():
        learned = model.probabilities(**inputs)[0].tolist()
        with model.disable_adapter():
            zero_shot = model(**inputs).logits.softmax(-1)[0].tolist()
    assert list(found) == sorted(NAMES, key=lambda name: -found[name][0])
    for index, name in enumerate(NAMES):
        assert found[name] == pytest.approx((learned[index], zero_shot[index]), abs=1e-6)


def test_classes_of_one_call_are_not_those_of_another(clip, picture):
    """Visitors at once, each with classes of their own: the shared model's stay what they are."""
    classifier, image, failed = shared(clip), read_upload(picture), []
    lists = [["a", "b"], ["two", "three", "four"], [f"thing {index}" for index in range(7)], NAMES]
    expected = [by_label(classifier.answer(image, names)) for names in lists]

    def visit(names, own):
        for _ in range(5):
            found = by_label(classifier.answer(image, names))
            if found != {label: pytest.approx(shares, abs=1e-9) for label, shares in own.items()}:
                failed.append((names, found))

    visitors = [threading.Thread(target=visit, args=pair) for pair in zip(lists, expected, strict=True)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    assert failed == []
    assert [set(each) for each in expected] == [set(names) for names in lists]
    assert classifier.model.class_names == NAMES
    assert classifier.model.active_peft_config.class_names == NAMES


def test_what_is_decided_by_is_used_for_the_own_classes_only(clip, picture):
    classifier = shared(clip, calibration_temperature=2.5, min_probability=0.99, other_names=["green square"])
    answer = classifier.answer(read_upload(picture), NAMES[::-1])
    with torch.no_grad():
        expected = classifier.model.probabilities(pixel_values=pixels(clip, picture))[0].tolist()
    found = by_label(answer)
    assert [found[name][0] for name in (*NAMES, OTHER)] == pytest.approx(expected, abs=1e-6)
    assert found[OTHER][1] is None
    assert answer.labels == [OTHER]
    assert any("temperature 2.5" in note for note in answer.notes)
    assert any("green square" in note for note in answer.notes)
    of_others = classifier.answer(read_upload(picture), ["zero", "one"])
    assert set(by_label(of_others)) == {"zero", "one"}
    assert of_others.labels == [next(iter(by_label(of_others)))]
    assert "Not used for other classes" in of_others.notes[-1]
    assert classifier.model.active_peft_config.other_names == ["green square"]


def test_an_image_may_have_any_number_of_classes(clip, picture):
    classifier = shared(clip, problem_type="multi_label_classification", min_probability=0.0)
    answer = classifier.answer(read_upload(picture), NAMES)
    with torch.no_grad():
        expected = classifier.model(pixel_values=pixels(clip, picture)).logits.sigmoid()[0].tolist()
    found = by_label(answer)
    assert [found[name][0] for name in NAMES] == pytest.approx(expected, abs=1e-6)
    assert answer.labels == sorted(NAMES, key=lambda name: -found[name][0])
    classifier.model.set_decision(min_probability=1.0)
    none = classifier.answer(read_upload(picture), NAMES)
    assert none.labels == []
    assert "Classes are answered from 100.0% on." in none.notes
    assert "none of them" in answer_table(none, "mine")


def test_without_a_prompt_there_is_zero_shot_clip_alone(clip, picture):
    before = {name: value.clone() for name, value in clip.model.state_dict().items()}
    classifier = start_without_prompt(clip, NAMES)
    answer = classifier.answer(read_upload(picture), NAMES)
    assert {row.learned for row in answer.rows} == {None}
    assert sum(row.zero_shot for row in answer.rows) == pytest.approx(1, abs=1e-5)
    with pytest.raises(ValueError, match="has learned nothing"):
        classifier.nearest_words(3, False)
    assert not hasattr(clip.model, "prompt_layer")
    assert all(torch.equal(value, before[name]) for name, value in clip.model.state_dict().items())


def test_weights_that_are_no_numbers_are_told(clip, picture):
    classifier = shared(clip)
    with torch.no_grad():
        next(p for name, p in classifier.model.named_parameters() if "learned_prompts" in name).fill_(float("nan"))
    with pytest.raises(ValueError, match="are no numbers"):
        classifier.answer(read_upload(picture), NAMES)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        (None, "no class names"),
        (" \n\n", "no class names"),
        ("cat\ndog\nCat", "'Cat' is there twice"),
        ("cat\n\u200b", "is empty"),
        ("cat\n" + "x" * (MOST_CHARACTERS + 1), f"has {MOST_CHARACTERS + 1} characters"),
        ("\n".join(map(str, range(MOST_CLASSES + 1))), f"There are {MOST_CLASSES + 1} class names"),
        ("cat\n\udcff", "lone surrogate"),
    ],
)
def test_class_names_that_are_none(text, match):
    with pytest.raises(ValueError, match=match):
        read_class_names(text)


def test_class_names_of_any_language_are_one_on_each_line():
    assert read_class_names(f"  Ångström \r\n\n犬\n{HOSTILE}, and more") == ["Ångström", "犬", f"{HOSTILE}, and more"]
    with pytest.raises(ValueError, match="one class name at a time, got 2"):
        read_class_name("a\nb")


def test_classes_of_a_prompt_are_accepted_as_they_are():
    """A prompt for ImageNet has more of them than a visitor may write, and names that differ in their case alone."""
    own = [f"class {index}" for index in range(MOST_CLASSES + 2)]
    assert read_class_names("\n".join(own), own) == own
    assert read_class_names("\n".join(own[:-1]), own) == own[:-1]
    with pytest.raises(ValueError, match=f"There are {len(own) + 1} class names, accepted are {len(own)}"):
        read_class_names("\n".join([*own, "one more"]), own)
    assert read_class_names("Drum\ndrum\n", ["Drum", "drum"]) == ["Drum", "drum"]


def test_pictures_of_all_kinds_are_seen_as_they_are(tmp_path):
    """Of any mode and depth, turned as EXIF says, and the transparent on white or not at all: three numbers a pixel."""
    grey = Image.new("I;16", (8, 6), 65535)
    for name, image in {
        "cmyk.jpg": Image.new("CMYK", (8, 6), (0, 0, 0, 0)),
        "deep.png": grey,
        "grey.png": Image.new("LA", (8, 6), (255, 255)),
        "palette.png": Image.new("RGB", (8, 6), "white").quantize(),
        "one-bit.png": Image.new("1", (8, 6), 1),
    }.items():
        image.save(tmp_path / name)
        found = read_upload(tmp_path / name)
        assert (found.mode, found.size) == ("RGB", (8, 6))
        assert found.getpixel((3, 3)) == (255, 255, 255), name
    half = Image.new("I;16", (8, 6), 32768)
    half.save(tmp_path / "half.png")
    assert read_upload(tmp_path / "half.png").getpixel((3, 3)) == (128, 128, 128)
    turned = Image.new("RGB", (8, 6), "red")
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert read_upload(tmp_path / "turned.jpg").size == (6, 8)


def test_uploads_that_are_no_pictures(tmp_path, picture, monkeypatch):
    def refused(name, data, match):
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(ValueError, match=match) as caught:
            read_upload(path)
        assert str(caught.value).startswith(f"{name}: ")
        assert str(tmp_path) not in str(caught.value)

    refused("empty.png", b"", "the file is empty")
    refused("text.png", b"hello", "none of JPEG")
    refused("cut.png", picture.read_bytes()[:60], "cannot be read|none of JPEG")
    gif = tmp_path / "picture.gif"
    Image.new("RGB", (4, 4)).save(gif)
    refused("gif.png", gif.read_bytes(), "none of JPEG")
    for kind in ("webp", "png"):
        moving = tmp_path / f"moving.{kind}"
        frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
        frames[0].save(moving, save_all=True, append_images=frames[1:])
        refused(moving.name, moving.read_bytes(), "is moving")
    with pytest.raises(ValueError, match="no longer here"):
        read_upload(tmp_path / "gone.png")
    monkeypatch.setattr("peft_coop.endpoint_handler.MOST_PIXELS", 100)
    refused("many.png", picture.read_bytes(), "60 x 48 pixels")
    monkeypatch.setattr("peft_coop.app.entries.MOST_BYTES", 50)
    refused("large.png", picture.read_bytes(), "bytes")


def test_what_visitors_write_is_text(clip, picture):
    names = [HOSTILE, 'a" onload="b', "zero"]
    page = answer_table(shared(clip).answer(read_upload(picture), names), HOSTILE)
    assert "<script" not in page
    assert all(escape(name) in page for name in names)
    visits = Visits(Shelf([start_without_prompt(clip, NAMES)]), clip)
    _, added, table = visits.add_class(Examples(), HOSTILE, [str(picture)])
    assert added
    assert "<script" not in table
    told = visits.classify("0", None, str(picture), f"{HOSTILE}\n{HOSTILE}")
    assert "is there twice" in told
    assert "<script" not in told


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    """Two pictures of each of two colours."""
    found = Examples()
    for name in ("red circle", "blue square"):
        paths = []
        for shade in (255, 200):
            paths.append(str(tmp_path_factory.mktemp("examples") / f"{name}.png"))
            Image.new("RGB", (48, 48), (shade, 0, 0) if "red" in name else (0, 0, shade)).save(paths[-1])
        found = found.with_class(name, paths)
    return found


def test_a_prompt_is_learned_from_a_few_pictures(clip, picture, examples):
    visits = Visits(Shelf([start_without_prompt(clip, NAMES)], most_learned=1), clip)
    first = visits.learn(examples, 12, None)
    assert "Learned 2 classes from 4 pictures" in first.message
    assert first.names == visits.class_names("learned", first.key) == "red circle\nblue square"
    red = examples.classes[0][1][0]
    answer = visits.shelf.find("learned", first.key).answer(read_upload(red), ["red circle", "blue square"])
    assert answer.labels == ["red circle"]
    learned, zero_shot = by_label(answer)["red circle"]
    assert learned != pytest.approx(zero_shot, abs=1e-6)
    assert "<td>" in visits.nearest_words("learned", first.key, True)
    with zipfile.ZipFile(first.archive) as archive:
        files = {name: archive.read(name).decode("utf-8", "replace") for name in archive.namelist()}
    assert {"prompt/adapter_config.json", "prompt/adapter_model.safetensors"} <= set(files)
    assert not [name for name, text in files.items() if demo.MODEL_PATH in text]
    second = visits.learn(examples, 1, None)  # of another visitor: the shelf is full
    assert "no longer here" in visits.classify("learned", first.key, red, "a\nb")
    assert "<td>" in visits.classify("learned", second.key, red, "a\nb")
    visits.shelf.clear()
    assert "no longer here" in visits.classify("learned", second.key, red, "a\nb")
    assert clip._features == {}


def test_what_is_learned_starts_as_zero_shot_clip(clip, picture, examples, tmp_path):
    """At a learning rate of nothing it is that: few pictures make few steps, and random vectors would stay behind."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("peft_coop.app.learning.LEARNING_RATE", 1e-12)
        patch.setattr("tempfile.tempdir", str(tmp_path))
        classifier, _ = learn(clip, examples, 1)
    for learned, zero_shot in by_label(classifier.answer(read_upload(picture), NAMES)).values():
        assert learned == pytest.approx(zero_shot, abs=1e-4)  # float32; random vectors differ by tenths


def test_a_training_that_nobody_waits_for_ends_and_leaves_nothing(clip, examples, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    unwanted = threading.Event()
    unwanted.set()
    with pytest.raises(ValueError, match="Nobody waits for this prompt"):
        learn(clip, examples, 1, unwanted)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("end", [lambda visits: visits.leave("me"), lambda visits: visits.close()])
def test_who_leaves_ends_the_own_training(clip, examples, monkeypatch, end):
    visits = Visits(Shelf([start_without_prompt(clip, NAMES)]), clip)

    def told_to_end(clip, examples, num_epochs, unwanted):
        visits.leave("somebody else")
        assert not unwanted.is_set()
        end(visits)
        raise ValueError(f"ended: {unwanted.is_set()}")

    monkeypatch.setattr("peft_coop.app.visits.learn", told_to_end)
    found = visits.learn(examples, 1, "before", "me")
    assert found.key == "before"
    assert "ended: True" in found.message
    visits.leave("me")  # nothing of it is left to end


def test_one_visitor_learns_while_another_one_classifies(clip, picture, examples):
    classifier, image = shared(clip), read_upload(picture)
    visits = Visits(Shelf([classifier]), clip)
    expected, found = by_label(classifier.answer(image, NAMES)), []
    alone = visits.learn(examples, 8, None)
    learning = threading.Thread(target=lambda: found.append(visits.learn(examples, 8, None)))
    learning.start()
    answers = [by_label(classifier.answer(image, NAMES)) for _ in range(10)]
    learning.join()
    assert all(
        answer == {name: pytest.approx(shares, abs=1e-9) for name, shares in expected.items()} for answer in answers
    )
    both = [by_label(visits.shelf.find("learned", each.key).answer(image, NAMES)) for each in (alone, *found)]
    for name in NAMES:
        assert both[1][name] == pytest.approx(both[0][name], abs=1e-5)  # float32
    visits.close()


def test_what_cannot_be_learned_leaves_everything(clip, picture, examples, tmp_path):
    visits = Visits(Shelf([start_without_prompt(clip, NAMES)]), clip)
    assert visits.learn(Examples(), 1, "key").key == "key"
    with pytest.raises(ValueError, match="two classes or more; there are 1"):
        learn(clip, Examples().with_class("zero", [str(picture)]), 1)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"none")
    for name, pictures, told in [
        ("zero", [], "no picture of"),
        ("zero", [str(broken)], "broken.png"),
        ("", [str(picture)], "no class names"),
        ("Red Circle", [str(picture)] * MOST_EXAMPLES, f"would have {MOST_EXAMPLES + 2} pictures"),
    ]:
        same, added, page = visits.add_class(examples, name, pictures)
        assert (same, added) == (examples, False)
        assert told in page


def test_a_visitors_prompt_is_found_by_its_key_alone(clip):
    shelf = Shelf([start_without_prompt(clip, NAMES)])
    for choice, key in [("learned", None), ("learned", "0"), ("1", None), (None, None), ("../x", None)]:
        with pytest.raises(ValueError, match=r"no longer here|There is no prompt"):
            shelf.find(choice, key)
    with pytest.raises(ValueError, match="needs a classifier"):
        Shelf([])


def test_a_space_serves_an_adapter(clip, tmp_path, capsys):
    model = get_peft_model(demo.load_clip(), CoOpConfig(n_ctx=2, class_names=["zero", "a | b"]))
    model.add_adapter("style", LoraConfig(target_modules=["visual_projection"], init_lora_weights=False))
    model.save_pretrained(tmp_path / "digits")
    (tmp_path / "digits" / "training").mkdir()
    space = tmp_path / "space"
    assert main(["app", "--quiet", "--adapter", str(tmp_path / "digits"), "--space", str(space)]) == 0
    written = {str(path.relative_to(space)) for path in space.rglob("*") if path.is_file()}
    assert {"app.py", "requirements.txt", "README.md"} <= written
    assert {f"adapter/digits/{name}" for name in ("adapter_config.json", "style/adapter_model.safetensors")} <= written
    assert (space / "requirements.txt").read_text().startswith("peft-coop[app]>=")
    head = yaml.safe_load((space / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert (head["sdk"], head["app_file"], head["title"]) == ("gradio", "app.py", "digits")
    assert json.loads((space / "adapter/digits/adapter_config.json").read_text())["base_model_name_or_path"] is None
    texts = [path.read_text(encoding="utf-8") for path in space.rglob("*") if path.suffix in (".py", ".md", ".json")]
    assert not [text for text in texts if str(tmp_path) in text or demo.MODEL_PATH in text]
    capsys.readouterr()
    again = ["app", "--quiet", "--adapter", str(tmp_path / "digits"), "--space", str(space)]
    assert main(again) == 2
    assert "is there already" in capsys.readouterr().err
    with pytest.raises(ValueError, match="by its name on the Hub"):
        write_space(tmp_path / "other", tmp_path / "digits", str(tmp_path), ["zero"])
    with pytest.raises(ValueError, match="holds no adapter"):
        write_space(tmp_path / "other", tmp_path, "demo", ["zero"])
    assert not (tmp_path / "other").exists()


def test_the_app_of_a_space_starts_the_page(clip, tmp_path, monkeypatch):
    get_peft_model(demo.load_clip(), CoOpConfig(n_ctx=2, class_names=NAMES)).save_pretrained(tmp_path / "digits")
    write_space(tmp_path / "space", tmp_path / "digits", "demo", NAMES)
    called = []
    monkeypatch.chdir(tmp_path / "space")
    monkeypatch.setattr("peft_coop.app.serve", lambda shelf, clip, host, port, tell: called.append((shelf, host, port)))
    code = compile((tmp_path / "space/app.py").read_text(), "app.py", "exec")
    with pytest.raises(SystemExit, match="0"):
        exec(code, {"__name__": "__main__"})
    [(shelf, host, port)] = called
    assert (host, port) == ("0.0.0.0", 7860)
    assert shelf.find("0").class_names == NAMES
    assert shelf.find("0").title == "digits"


def test_a_port_that_is_taken_is_told_before_anything_is_loaded(capsys):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = str(other.getsockname()[1])
        assert main(["app", "--port", port, "--adapter", "nowhere-at-all/x/y"]) == 2
    told = capsys.readouterr().err
    assert f"cannot listen at 127.0.0.1, port {port} (" in told
    assert "choose another port, or none" in told
    assert main(["app", "--host", "no.such.host.invalid"]) == 2
    assert "cannot listen at no.such.host.invalid (" in capsys.readouterr().err


def test_prompts_of_one_folder_name_are_told_apart_in_the_list(tmp_path):
    folders = ["runs/pets/seed1", "runs/flowers/seed1", "runs/flowers/seed2", "me/style"]
    assert distinct_titles(folders) == ["pets/seed1", "flowers/seed1", "seed2", "style"]
    assert distinct_titles(["a/x", "a/x"]) == ["x", "x"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--space", "x"], "--space is for one --adapter, got 0"),
        (["--adapter", "nowhere-at-all/x/y"], "There is no adapter"),
    ],
)
def test_a_page_that_cannot_be(arguments, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["app", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_without_gradio_the_command_says_what_is_missing(monkeypatch, capsys):
    monkeypatch.setattr("peft_coop.app.serving.find_spec", lambda name: None)
    assert main(["app"]) == 2
    assert 'pip install "peft-coop[app]"' in capsys.readouterr().err
