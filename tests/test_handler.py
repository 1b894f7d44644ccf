"""The handler of an inference endpoint: written beside an adapter, and run in a process that knows nothing else."""

import base64
import io
import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from transformers import AutoImageProcessor

from peft_coop import CoOpConfig, demo, endpoint_handler
from peft_coop.endpoint_handler import EndpointHandler, PictureError, read_picture
from peft_coop.hub import write_handler

NAMES = ["zero", "one", "犬"]
FRESH = """
import json, sys
sys.path.insert(0, sys.argv[1])
from PIL import Image
from handler import EndpointHandler
handler = EndpointHandler(sys.argv[1])
print(json.dumps([handler({"inputs": Image.open(sys.argv[2])}), handler({"inputs": open(sys.argv[2], "rb").read()})]))
"""

pytestmark = pytest.mark.filterwarnings("ignore:.*does not know words of these class names:UserWarning")


@pytest.fixture(scope="module")
def picture():
    image = Image.new("RGB", (60, 48), "white")
    image.paste("black", (10, 10, 20, 40))
    return image


@pytest.fixture
def make_adapter(tmp_path):
    """A saved prompt with a handler, and the model."""

    def make(name="adapter", lora=False, **settings):
        torch.manual_seed(0)
        model = get_peft_model(demo.load_clip(), CoOpConfig(n_ctx=4, class_names=NAMES, **settings))
        if lora:
            model.add_adapter("style", LoraConfig(target_modules=["visual_projection"], init_lora_weights=False))
        model.eval().save_pretrained(tmp_path / name)
        write_handler(tmp_path / name)
        return tmp_path / name, model

    return make


def expected_scores(model, picture):
    inputs = demo.load_processor()(images=picture, return_tensors="pt")
    with torch.no_grad():
        [row] = model.probabilities(pixel_values=inputs["pixel_values"])
    return row.tolist()


def file_of(picture, kind="PNG", **settings) -> bytes:
    content = io.BytesIO()
    picture.save(content, kind, **settings)
    return content.getvalue()


def test_a_fresh_process_answers_as_the_model(make_adapter, picture, tmp_path):
    """With the LoRA that was saved with the prompt."""
    folder, model = make_adapter(lora=True)
    picture.save(tmp_path / "picture.png")
    command = [sys.executable, "-c", FRESH, str(folder), str(tmp_path / "picture.png")]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr
    decoded, from_bytes = json.loads(ran.stdout.splitlines()[-1])
    assert decoded == from_bytes
    scores = expected_scores(model, picture)
    assert [each["label"] for each in decoded] == [name for _, name in sorted(zip(scores, NAMES, strict=True))[::-1]]
    assert [each["score"] for each in decoded] == pytest.approx(sorted(scores, reverse=True), abs=1e-4)
    assert (folder / "requirements.txt").read_text().startswith("peft-coop>=")


def test_base64_and_the_number_of_labels(make_adapter, picture):
    handler = EndpointHandler(str(make_adapter()[0]))
    content = file_of(picture, "JPEG")
    text = base64.b64encode(content).decode()
    plain = handler({"inputs": text})
    assert handler({"inputs": f"data:image/jpeg;base64,{text}", "parameters": None}) == plain
    assert handler({"inputs": f"DATA:image/jpeg;charset=x;base64,{text}", "parameters": {"top_k": None}}) == plain
    assert "\n" in base64.encodebytes(content).decode()  # as the program `base64` writes it
    assert handler({"inputs": base64.encodebytes(content).decode()}) == plain
    assert {"-", "_"} & set(base64.urlsafe_b64encode(content).decode())
    assert handler({"inputs": base64.urlsafe_b64encode(content).decode()}) == plain
    assert len(plain) == 3
    assert handler({"inputs": text, "parameters": {"top_k": 1}}) == plain[:1]
    for wrong in (0, -1, "2", True, float("nan")):
        with pytest.raises(ValueError, match=f"`top_k` must be a whole number of 1 or more, got {wrong!r}"):
            handler({"inputs": text, "parameters": {"top_k": wrong}})
    for parameters, told in (({"topk": 1}, "`top_k` and nothing else, got 'topk'"), ([1], "a dict, .*, got list")):
        with pytest.raises(ValueError, match=told):
            handler({"inputs": text, "parameters": parameters})
    with pytest.raises(ValueError, match="A request must be a dict with `inputs`, got bytes"):
        handler(content)


def test_what_the_prompt_decides_by(make_adapter, picture):
    """ "other" has the sum of the other names, and is first where it is the answer."""
    folder, model = make_adapter("others", other_names=["car", "ship"], calibration_temperature=3.0)
    answer = EndpointHandler(str(folder))({"inputs": picture})
    scores = expected_scores(model, picture)
    assert {each["label"]: each["score"] for each in answer} == pytest.approx(
        dict(zip([*NAMES, "other"], scores, strict=True)), abs=1e-4
    )
    assert [each["score"] for each in answer] == sorted((each["score"] for each in answer), reverse=True)
    folder, model = make_adapter("least", min_probability=0.999)
    first, *others = EndpointHandler(str(folder))({"inputs": picture})
    assert first == {"label": "other", "score": None}
    assert [each["score"] for each in others] == pytest.approx(sorted(expected_scores(model, picture))[::-1], abs=1e-4)


def test_any_number_of_labels(make_adapter, picture):
    """Those that are likely enough, by 0.5 where the adapter says nothing else."""
    for name, settings in (("half", {}), ("less", {"min_probability": 1e-6})):
        folder, model = make_adapter(name, problem_type="multi_label_classification", **settings)
        answer = EndpointHandler(str(folder))({"inputs": picture})
        least = settings.get("min_probability", 0.5)
        scores = sorted((each for each in expected_scores(model, picture) if each >= least), reverse=True)
        assert [each["score"] for each in answer] == pytest.approx(scores, abs=1e-4)
    assert len(answer) == 3


def test_a_picture_is_turned_and_made_rgb(picture):
    turned = Image.Exif()
    turned[0x0112] = 6  # lies on its side
    assert read_picture(file_of(picture, "JPEG", exif=turned.tobytes())).size == (48, 60)
    for kind, mode in (("PNG", "RGBA"), ("PNG", "L"), ("PNG", "P"), ("WEBP", "RGB"), ("JPEG", "CMYK")):
        assert read_picture(file_of(picture.convert(mode), kind)).mode == "RGB"


def test_a_picture_of_16_bits_is_no_white_one():
    """As the library reads images that it evaluates on."""
    grey = Image.fromarray(np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16))
    for given in (file_of(grey), grey):
        found = np.asarray(read_picture(given))
        np.testing.assert_array_equal(found, np.arange(256).reshape(16, 16, 1).repeat(3, axis=2))


def test_of_a_photograph_with_a_preview_the_photograph_is_taken(picture):
    """Cameras write JPEGs with further pictures: what Pillow calls MPO does not move."""
    content = file_of(picture, "MPO", save_all=True, append_images=[picture.resize((6, 5))])
    with Image.open(io.BytesIO(content)) as image:
        assert (image.format, image.n_frames) == ("MPO", 2)
    assert read_picture(content).size == picture.size


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of damaged EXIF data
def test_of_damaged_files_nothing_else_than_a_refusal_is_raised(picture):
    """Pillow's decoders raise nearly everything."""
    exif = Image.Exif()
    exif[0x0112] = 6
    bases = [file_of(picture, kind, exif=exif.tobytes()) for kind in ("JPEG", "PNG", "WEBP")]
    random, found = np.random.default_rng(0), set()
    for index in range(300):
        damaged = bytearray(bases[index % 3])
        for _ in range(3):
            damaged[random.integers(2, min(200, len(damaged)))] = random.integers(0, 256)
        try:
            found.add(read_picture(bytes(damaged)).mode)
        except PictureError as error:
            found.add(str(error).partition(":")[0])
    assert found == {"RGB", "The picture cannot be read", "The picture is none of JPEG, PNG, WEBP."}
    with pytest.raises(PictureError, match="The picture cannot be read: image file is truncated"):
        read_picture(Image.open(io.BytesIO(file_of(picture)[:-40])))


def test_which_of_two_loras_was_active_is_not_guessed(make_adapter):
    folder, model = make_adapter(lora=True)
    model.add_adapter("other", LoraConfig(target_modules=["visual_projection"]))
    model.save_pretrained(folder)
    with pytest.raises(ValueError, match="both are of one method"):
        EndpointHandler(str(folder))


def test_images_are_prepared_as_the_base_models_revision_says(make_adapter, monkeypatch):
    folder, _ = make_adapter()
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"revision": "v2"}))
    loaded = AutoImageProcessor.from_pretrained
    asked = []

    def from_pretrained(name, **settings):
        asked.append((name, settings["revision"]))
        return loaded(name, **settings)

    monkeypatch.setattr(AutoImageProcessor, "from_pretrained", from_pretrained)
    handler = EndpointHandler(str(folder))
    assert asked == [(handler.model.get_base_model().name_or_path, "v2")]


def of_many_scans(image, number: int) -> bytes:
    """A progressive JPEG whose last scan, of a few bytes, is there so many times more."""
    content = file_of(image, "JPEG", progressive=True)
    last, end = content.rfind(b"\xff\xda"), content.rfind(b"\xff\xd9")
    return content[:end] + content[last:end] * number + content[end:]


@pytest.mark.parametrize("beside", ["in front", "behind"])
def test_scans_are_those_of_the_picture_itself(picture, beside):
    """Bytes that look like some, in another segment or behind the end, are none."""
    content = of_many_scans(picture, 50)
    assert read_picture(content).size == picture.size
    lookalikes = b"\xff\xda\0\2" * 200
    comment = b"\xff\xfe" + (len(lookalikes) + 2).to_bytes(2, "big") + lookalikes
    content = content[:2] + comment + content[2:] if beside == "in front" else content + lookalikes
    assert read_picture(content).size == picture.size


def hostile(picture) -> dict[str, tuple[object, str]]:
    moving = file_of(picture, "PNG", save_all=True, append_images=[picture.rotate(90)])
    return {
        "nothing": (None, "got nothing"),
        "no bytes": (b"", "got nothing"),
        "an address": ("https://example.com/a.png", "must be one picture, or its bytes in base64"),
        "a path": ("/etc/passwd", "must be one picture, or its bytes in base64"),
        "a list": ([1, 2], "got list"),
        "text": (b"hello, this is a text", "none of JPEG, PNG, WEBP"),
        "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "none of JPEG, PNG, WEBP"),
        "another kind": (file_of(picture, "TIFF"), "none of JPEG, PNG, WEBP"),
        "cut off": (file_of(picture)[:-40], "cannot be read"),
        "a jpeg cut off": (file_of(picture, "JPEG")[:-200], "cannot be read"),
        "moving": (moving, "is moving"),
        "scans for hours": (of_many_scans(picture, 100), "has more than 100 scans"),
    }


@pytest.mark.parametrize("kind", list(hostile(Image.new("RGB", (9, 9)))))
def test_hostile_files_are_refused(picture, kind):
    given, told = hostile(picture)[kind]
    with pytest.raises(ValueError, match=told):
        read_picture(given)


def test_large_pictures_are_refused_before_they_are_decoded(picture, monkeypatch):
    content = file_of(picture)
    monkeypatch.setattr(endpoint_handler, "MOST_PIXELS", 60 * 48 - 1)
    monkeypatch.setattr(PngImageFile, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(ValueError, match="has 60 x 48 pixels, accepted are 2,879"):
        read_picture(content)
    monkeypatch.setattr(endpoint_handler, "MOST_BYTES", 10)
    with pytest.raises(ValueError, match=r"The picture has [\d,]+ bytes, accepted are 10\."):
        read_picture(content)


@pytest.mark.parametrize("name", ["handler.py", "requirements.txt"])
def test_files_of_ones_own_are_not_written_over(make_adapter, name):
    folder, _ = make_adapter()
    assert [path.name for path in write_handler(folder)] == ["handler.py", "requirements.txt"]  # as they are
    (folder / name).write_text("mine")
    with pytest.raises(FileExistsError, match=rf"{re.escape(name)} is there already, and not as it would be written"):
        write_handler(folder)
    assert (folder / name).read_text() == "mine"


def test_what_no_endpoint_could_serve_is_refused(make_adapter, tmp_path):
    with pytest.raises(ValueError, match="has none of the task None"):
        write_handler(tmp_path)
    folder, _ = make_adapter()
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text())
    for field, value, told in (
        ("task_type", "VIDEO_CLS", "has COOP of the task VIDEO_CLS"),
        ("base_model_name_or_path", None, "this adapter's was loaded from a folder"),
        ("class_names", None, "answers with the adapter's classes, and it has none"),
    ):
        path.write_text(json.dumps(settings | {field: value}))
        with pytest.raises(ValueError, match=told):
            write_handler(folder)
