"""The service of examples/serving, asked over HTTP; hostile uploads get an answer, and it goes on.

The graph is made by hand, of the mean of each colour: what stands in a folder of `peft-coop export` is
`test_onnx_folder.py`'s.
"""

import asyncio
import http.client
import importlib
import io
import json
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest
import uvicorn
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from starlette.requests import Request
from transformers import CLIPImageProcessor, SiglipImageProcessor

from peft_coop.data.preparation import prepare_images

ROOT = Path(__file__).parents[1]
WEIGHTS = np.array([[3, 0, 0, 1], [0, 3, 0, 1], [0, 0, 3, 1]], np.float32)
LABELS = ["red", "grün", "blue", "other"]


@pytest.fixture(scope="module")
def example():
    """The modules of the example."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "examples" / "serving")
        names = ("app", "batching", "connections", "pictures", "uploads")
        yield {name: importlib.import_module(name) for name in names}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    shape = ["batch", 3, 16, 16]
    nodes = [
        helper.make_node("GlobalAveragePool", ["pixel_values"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    given = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, shape)
    result = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4])
    graph = helper.make_graph(nodes, "colours", [given], [result], [numpy_helper.from_array(WEIGHTS, "weights")])
    (folder / "onnx").mkdir()
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, folder / "onnx" / "model.onnx")
    config = {"id2label": dict(enumerate(LABELS)), "min_probability": 0.6, "n_others": 1}
    (folder / "config.json").write_text(json.dumps(config))
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def classifier(example, folder):
    return example["app"].Classifier(folder, threads=1)


@contextmanager
def served(example, classifier, batcher=None, **limits):
    """The port of a server that runs."""
    limits = example["uploads"].Limits(**limits)
    app = example["app"].make_app(classifier, limits, batcher)
    connections = example["connections"].of_connections(limits.head_seconds)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical", **connections))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def port(example, classifier):
    with served(example, classifier, most_bytes=100_000, most_pixels=1_000_000) as port:
        yield port


def ask(port, content, kind="image/png", path="/classify", **headers):
    """Status and answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request("POST", path, content, {**({"content-type": kind} if kind else {}), **headers})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def wait_until(happened, seconds=60):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.01)


def healthy(port) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/health")
    answer = json.loads(connection.getresponse().read())
    connection.close()
    return answer == {"status": "ok", "classes": 4}


def picture(colour="red", size=(30, 20)) -> Image.Image:
    return Image.new("RGB", size, colour)


def file_of(image, kind="PNG", **settings) -> bytes:
    content = io.BytesIO()
    image.save(content, kind, **settings)
    return content.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_that_claims(width: int, height: int) -> bytes:
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(("kind", "colour"), [("PNG", "red"), ("JPEG", "lime"), ("WEBP", "blue")])
def test_a_picture_is_answered_with_its_labels(port, classifier, kind, colour):
    status, answer = ask(port, file_of(picture(colour), kind), f"image/{kind.lower()}")
    assert status == 200
    expected = np.asarray(Image.open(io.BytesIO(file_of(picture(colour), kind))).convert("RGB"), float).mean((0, 1))
    processor = CLIPImageProcessor()
    logits = ((expected / 255 - processor.image_mean) / processor.image_std) @ WEIGHTS
    powers = np.exp(logits - logits.max())
    scores = dict(zip(LABELS, powers / powers.sum(), strict=True))
    assert {each["label"]: each["score"] for each in answer["labels"]} == pytest.approx(scores, abs=1e-3)
    found = [each["score"] for each in answer["labels"]]
    assert found == sorted(found, reverse=True)


def test_the_program_needs_neither_torch_nor_this_library(folder):
    script = ROOT / "examples" / "serving" / "app.py"
    code = f"""
import runpy, sys
sys.modules["torch"] = sys.modules["transformers"] = sys.modules["peft_coop"] = None
sys.argv = ["app.py", {str(folder)!r}, "--smoke"]
sys.path.insert(0, {str(script.parent)!r})
runpy.run_path({str(script)!r}, run_name="__main__")
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, encoding="utf-8")
    assert ran.returncode == 0, ran.stderr
    [first, *others] = json.loads(ran.stdout)
    assert first["label"] == "other"  # grey
    assert len(others) == 2


def test_some_labels_and_other(port):
    status, answer = ask(port, file_of(picture("red")), path="/classify?top_k=1")
    assert (status, [each["label"] for each in answer["labels"]]) == (200, ["red"])
    _, answer = ask(port, file_of(picture("grey")))
    assert answer["labels"][0]["label"] == "other"  # no class is as likely as 0.6
    assert sorted(each["label"] for each in answer["labels"]) == sorted(LABELS)
    for wrong in ("top_k=0", "top_k=-1", "top_k=x", "top_k=1001", "top_k=1e9", "top_k=NaN", "topk=1"):
        assert ask(port, file_of(picture()), path=f"/classify?{wrong}")[0] == 422


def test_no_class_is_likely_enough(classifier, folder, example):
    """Without a row of its own "other" has no score."""
    alone = example["app"].Classifier(folder)
    alone.labels, alone.has_other = ["a", "b"], False
    assert alone.answer(np.array([0.5, 0.5]), 2)[0] == {"label": "other", "score": None}
    assert alone.answer(np.array([0.1, 0.9]), 2)[0]["label"] == "b"


def test_any_number_of_labels(folder, example):
    """Each class for itself, by a sigmoid; those that are likely enough."""
    several = example["app"].Classifier(folder)
    several.has_several, several.has_other, several.min_probability = True, False, None
    pixels = several.prepare(picture("grey"))[None]
    [probabilities] = several.run(pixels)
    expected = 1 / (1 + np.exp(-(pixels.mean((0, 2, 3)) @ WEIGHTS)))
    np.testing.assert_allclose(probabilities, expected, rtol=0, atol=1e-5)
    values = np.array([0.9, 0.1, 0.6, 0.4])
    assert [each["label"] for each in several.answer(values, 5)] == ["red", "blue"]
    several.min_probability = 0.3
    assert [each["label"] for each in several.answer(values, 5)] == ["red", "blue", "other"]


@pytest.mark.parametrize(
    "processor",
    [
        CLIPImageProcessor(size={"shortest_edge": 24}, crop_size={"height": 16, "width": 20}),
        SiglipImageProcessor(size={"height": 16, "width": 20}),
    ],
    ids=["clip", "siglip"],
)
@pytest.mark.parametrize("size", [(31, 20), (20, 31), (16, 16), (200, 30), (47, 64), (500_000, 4), (3, 400_000)])
def test_pixels_are_those_that_the_library_measures_with(example, tmp_path, processor, size):
    random = np.random.default_rng(0)
    image = Image.fromarray(random.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
    processor.save_pretrained(tmp_path)
    prepare = example["pictures"].Preparation.from_file(tmp_path / "preprocessor_config.json")
    [expected] = prepare_images([image], processor).numpy()
    np.testing.assert_allclose(prepare(image), expected, rtol=0, atol=1e-5)


def test_a_picture_of_16_bits_is_no_white_one(example):
    grey = Image.fromarray(np.linspace(0, 65535, 256, dtype=np.uint16).reshape(16, 16))
    found = np.asarray(example["pictures"].read_picture(file_of(grey), 1000))
    np.testing.assert_array_equal(found, np.arange(256).reshape(16, 16, 1).repeat(3, axis=2))


def test_of_a_photograph_with_a_preview_the_photograph_is_taken(port):
    """Cameras write JPEGs with further pictures: what Pillow calls MPO does not move."""
    content = file_of(picture("lime"), "MPO", save_all=True, append_images=[picture("red", (6, 5))])
    status, answer = ask(port, content, "image/jpeg")
    assert (status, answer["labels"][0]["label"]) == (200, "grün")


def test_files_that_do_not_belong_together_are_refused_at_the_start(example, folder, tmp_path, capsys):
    start = example["app"].Classifier
    with pytest.raises(ValueError, match=r"There is no config\.json in '.*': it is not what `peft-coop export` wrote"):
        start(tmp_path)
    shutil.copytree(folder, tmp_path / "copy")
    with pytest.raises(ValueError, match=r"There is no onnx/model_fp16\.onnx in "):
        start(tmp_path / "copy", "onnx/model_fp16.onnx")
    path = tmp_path / "copy" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"id2label": {"0": "a", "1": "b"}}))
    with pytest.raises(ValueError, match=r"is for so many classes: \[4\], and the files beside it for \[2\]"):
        start(tmp_path / "copy")
    shutil.copy(folder / "config.json", path)
    CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 18, "width": 16}).save_pretrained(path.parent)
    with pytest.raises(ValueError, match=r"is for images of this size: \[16, 16\], and .* for \[18, 16\]"):
        start(tmp_path / "copy")
    path = tmp_path / "copy" / "preprocessor_config.json"
    path.write_text(
        json.dumps({name: value for name, value in json.loads(path.read_text()).items() if "std" not in name})
    )
    with pytest.raises(ValueError, match="does not say 'image_std'"):
        start(tmp_path / "copy")


@pytest.mark.parametrize(
    ("given", "result"), [(["batch", 4, 3, 16, 16], ["batch", 4]), (["batch", 3, 16, 16], ["batch", 3, 16, 16])]
)
def test_a_graph_for_videos_or_for_pixels_is_refused(folder, example, tmp_path, given, result):
    """Those that the library exports lie in folders that look the same."""
    shutil.copytree(folder, tmp_path / "served")
    shapes = {"pixel_values": given, "logits": result}
    told = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    axes = numpy_helper.from_array(np.arange(len(result), len(given)), "axes")
    node = helper.make_node("ReduceMean", ["pixel_values", "axes"], ["logits"], keepdims=0, noop_with_empty_axes=1)
    graph = helper.make_graph([node], "other", told[:1], told[1:], [axes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "served" / "onnx" / "model.onnx")
    with pytest.raises(ValueError, match=r"of pixel_values \['batch', .*, and what is served gives single images"):
        example["app"].Classifier(tmp_path / "served")


def test_an_image_processor_of_another_kind_is_refused(example, tmp_path):
    CLIPImageProcessor(do_center_crop=False).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="prepares images as CLIP's or SigLIP's processor does not"):
        example["pictures"].Preparation.from_file(tmp_path / "preprocessor_config.json")


def of_many_scans(image, number: int) -> bytes:
    """A progressive JPEG whose last scan, of a few bytes, is there so many times more."""
    content = file_of(image, "JPEG", progressive=True)
    last, end = content.rfind(b"\xff\xda"), content.rfind(b"\xff\xd9")
    return content[:end] + content[last:end] * number + content[end:]


def hostile() -> dict[str, tuple[bytes, str, int, str]]:
    frames = {"save_all": True, "append_images": [picture("blue")]}
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8))
    return {
        "nothing": (b"", "image/png", 400, "empty"),
        "cut off": (file_of(noise)[:-5000], "image/png", 400, "cannot be read"),
        "a jpeg cut off": (file_of(noise, "JPEG")[:-5000], "image/jpeg", 400, "cannot be read"),
        "a webp cut off": (file_of(noise, "WEBP")[:-5000], "image/webp", 400, "cannot be read"),
        "a head alone": (file_of(noise)[:40], "image/png", 415, "none of"),
        "a text that claims to be a picture": (b"hello, picture.png", "image/png", 415, "none of JPEG, PNG, WEBP"),
        "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "image/png", 415, "none of JPEG, PNG, WEBP"),
        "svg by its name": (b"<svg/>", "image/svg+xml", 415, "content type must be one of"),
        "tiff by another name": (file_of(noise, "TIFF")[:90_000], "image/png", 415, "none of JPEG, PNG, WEBP"),
        "eps, which Ghostscript would read": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "image/png", 415, "none of"),
        "a form": (file_of(picture()), "multipart/form-data; boundary=x", 415, "content type must be one of"),
        "no content type": (file_of(picture()), "", 415, "got 'none'"),
        "a moving png": (file_of(picture(), "PNG", **frames), "image/png", 415, "moving"),
        "a moving webp": (file_of(picture(), "WEBP", **frames), "image/webp", 415, "moving"),
        "gif": (file_of(picture(), "GIF", **frames), "image/gif", 415, "content type must be one of"),
        "more pixels than accepted": (file_of(picture(size=(1001, 1000))), "image/png", 413, "1001 x 1000 pixels"),
        "a bomb": (png_that_claims(60_000, 60_000), "image/png", 413, "pixels"),
        "a wide bomb": (png_that_claims(2_000_000_000, 1), "image/png", 413, "pixels"),
        "a jpeg of many scans": (of_many_scans(picture(), 100), "image/jpeg", 413, "more than 100 scans"),
        "no width": (png_that_claims(0, 5), "image/png", 415, "none of"),
        "a large file": (b"\xff" * 100_001, "image/jpeg", 413, "more than 100,000 bytes"),
    }


@pytest.mark.parametrize("name", hostile())
def test_hostile_uploads_are_refused_with_a_reason(port, name):
    content, kind, expected, told = hostile()[name]
    status, answer = ask(port, content, kind)
    assert (status, list(answer)) == (expected, ["error"])
    assert told in answer["error"]
    assert healthy(port)


def test_what_a_file_is_counts_and_not_what_it_is_called(port):
    status, answer = ask(port, file_of(picture("blue")), "image/jpeg; charset=x")
    assert (status, answer["labels"][0]["label"]) == (200, "blue")


def test_a_large_upload_without_a_length_is_cut_short(port):
    """In chunks, of which the first would be enough to see it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(
        "POST", "/classify", (b"\xff" * 10_000 for _ in range(15)), {"content-type": "image/png"}, encode_chunked=True
    )
    answer = connection.getresponse()
    assert answer.status == 413
    assert "more than 100,000 bytes" in json.loads(answer.read())["error"]
    connection.close()
    assert healthy(port)


def test_a_client_that_goes_away_does_no_harm(port):
    for sent in (
        b"POST /classify HTTP/1.1\r\n",
        b"POST /classify HTTP/1.1\r\nContent-Length: 99\r\n\r\nxx",
        b"\0\xff" * 9,
    ):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(sent)
    assert healthy(port)


def test_an_upload_that_ends_before_its_end_is_an_answer_and_no_error(example):
    """The server would log each of them with all that it was called by."""

    async def gone():
        return {"type": "http.disconnect"}

    request = Request({"type": "http", "headers": [(b"content-type", b"image/png")]}, gone)
    uploads = example["uploads"]
    with pytest.raises(example["pictures"].RefusedError, match="The upload ended before its end"):
        asyncio.run(uploads.read_body(request, uploads.Limits()))


HEAD = b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n"


def test_connections_that_bring_no_request_are_closed(example, classifier):
    """Nothing, half of a head, and half of the second head."""
    with served(example, classifier, head_seconds=0.2) as port:
        for sent in (b"", HEAD):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
                connection.sendall(sent)
                assert connection.recv(1000) == b""
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(HEAD + b"Content-Length: 0\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 400")
            connection.sendall(HEAD)
            wait_until(lambda: not connection.recv(1000))
        assert healthy(port)


def test_an_upload_may_take_longer_than_a_head(example, classifier):
    content = file_of(picture("blue"))
    with (
        served(example, classifier, head_seconds=0.2) as port,
        socket.create_connection(("127.0.0.1", port), timeout=60) as connection,
    ):
        connection.sendall(HEAD + b"Content-Length: %d\r\n\r\n" % len(content) + content[:20])
        time.sleep(0.5)
        connection.sendall(content[20:])
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")


def test_more_requests_at_once_than_accepted_are_told_to_come_back(example, classifier):
    with served(example, classifier, most_requests=1) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            connection.sendall(HEAD + b"Content-Length: 99\r\n\r\nx")
            wait_until(lambda: ask(port, file_of(picture()))[0] == 503)
            asked = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            asked.request("POST", "/classify", file_of(picture()), {"content-type": "image/png"})
            answer = asked.getresponse()
            assert (answer.status, answer.headers["Retry-After"]) == (503, "1")
            assert json.loads(answer.read()) == {"error": "Too many requests at once: try again later."}
            asked.close()
            assert healthy(port)
        wait_until(lambda: ask(port, file_of(picture()))[0] == 200)


def test_a_slow_upload_is_ended(example, classifier):
    with served(example, classifier, upload_seconds=0.2) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            head = "POST /classify HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 99\r\n\r\n"
            connection.sendall(head.encode() + b"x")
            assert connection.recv(1000).startswith(b"HTTP/1.1 408")
        assert healthy(port)


def test_many_at_once_go_through_together_and_each_gets_its_own(example, classifier):
    """While the model works, the others gather."""
    held = threading.Event()

    def run(pixel_values):
        held.wait(60)
        return classifier.run(pixel_values)

    batcher = example["batching"].Batcher(run, most=16, wait=0.01, room=64)
    colours = ["red", "lime", "blue"] * 12
    bad = {5: b"no picture", 17: b"", 30: file_of(picture())[:30]}
    contents = [bad.get(index, file_of(picture(colour))) for index, colour in enumerate(colours)]
    with served(example, classifier, batcher, decoders=4) as port, ThreadPoolExecutor(len(contents)) as threads:
        asked = [threads.submit(ask, port, content) for content in contents]
        wait_until(lambda: batcher._queue.qsize() >= 16)
        held.set()
        answers = [each.result() for each in asked]
    for index, (status, answer) in enumerate(answers):
        if index in bad:
            assert status in (400, 415)
        else:
            own = {"red": "red", "lime": "grün", "blue": "blue"}[colours[index]]
            assert (status, answer["labels"][0]["label"]) == (200, own)
    assert sum(batcher.sizes) == len(contents) - len(bad)
    assert max(batcher.sizes) > 1


def test_too_many_are_told_to_come_back_and_who_waits_too_long_too(example, classifier):
    held = threading.Event()

    def run(pixel_values):
        held.wait(60)
        return classifier.run(pixel_values)

    batcher = example["batching"].Batcher(run, most=1, wait=0, room=1)
    with served(example, classifier, batcher, answer_seconds=1.0) as port, ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(lambda _: ask(port, file_of(picture())), range(8)))
        assert {status for status, _ in answers} == {503, 504}
        assert {answer["error"] for _, answer in answers} == {
            "Too many pictures are waiting: try again later.",
            "The answer took too long.",
        }
        held.set()
        wait_until(lambda: ask(port, file_of(picture()))[0] == 200)  # what was given up is in the queue for a moment
        assert healthy(port)


def test_an_error_of_the_model_is_an_answer_and_not_the_end(example, classifier):
    broken = [True]

    def run(pixel_values):
        if broken:
            raise RuntimeError(f"{broken.pop()}")
        return classifier.run(pixel_values)

    with served(example, classifier, example["batching"].Batcher(run)) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("POST", "/classify", file_of(picture()), {"content-type": "image/png"})
        assert connection.getresponse().status == 500
        connection.close()
        assert ask(port, file_of(picture()))[0] == 200
