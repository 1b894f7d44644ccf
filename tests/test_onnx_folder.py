"""Classifiers as ONNX graphs in ONNX Runtime, against torch; what is exported once is shared by the tests."""

import importlib
import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from conftest import make_clip
from peft import get_peft_model
from PIL import Image
from tiny_families import FAMILIES
from transformers import AutoConfig, AutoImageProcessor, CLIPImageProcessor, SiglipImageProcessor

from peft_coop import CoCoOpConfig, CoOpConfig, VPTConfig
from peft_coop.export import export_onnx, onnx_folder, onnx_graph
from peft_coop.export.graphs import ClassMatrixGraph

NAMES = ["cat", "犬", "dog"]
FILES = ["onnx/model.onnx", "onnx/model_fp16.onnx", "onnx/model_quantized.onnx"]

pytestmark = pytest.mark.filterwarnings("ignore:.*does not know words of these class names:UserWarning")


def drawn(model):
    with torch.no_grad():
        for weight in model.prompt_layer.prompt.parameters():
            weight.normal_(std=0.3, generator=torch.Generator().manual_seed(3))
    return model.eval()


@pytest.fixture(scope="module")
def clip_processor():
    return CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


@pytest.fixture(scope="module")
def classifier(tokenizer_path):
    """With all that a graph can have: prompts in the vision tower, a temperature, other names."""
    decision = {"calibration_temperature": 2.0, "other_names": ["car", "ship"], "min_probability": 0.3}
    config = VPTConfig(class_names=NAMES, n_ctx_vision=3, tokenizer_name_or_path=tokenizer_path, **decision)
    torch.manual_seed(0)
    return drawn(get_peft_model(make_clip(), config)).to_classifier()


@pytest.fixture(scope="module")
def exported(classifier, clip_processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx") / "new" / "folder"
    before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
    files = export_onnx(classifier, clip_processor, folder)
    assert all(torch.equal(tensor, before[name]) for name, tensor in classifier.state_dict().items())
    return SimpleNamespace(folder=folder, files=files)


def run(path, pixel_values):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"pixel_values": pixel_values.numpy()})[0]


def torch_logits(classifier, pixel_values):
    with torch.no_grad():
        return classifier(pixel_values).logits.numpy()


def images(batch):
    return torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(batch))


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_the_graph_gives_torchs_logits_at_any_batch_size(exported, classifier, batch):
    expected = torch_logits(classifier, images(batch))
    assert expected.shape == (batch, 4)
    found = run(exported.folder / FILES[0], images(batch))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_float16_and_int8_are_close_and_smaller(exported, classifier):
    """The tower is rounded, and the classes are not."""
    expected = torch_logits(classifier, images(16))
    for name, most in (("onnx/model_fp16.onnx", 0.05), ("onnx/model_quantized.onnx", 1.0)):
        difference = np.abs(run(exported.folder / name, images(16)) - expected).max()
        assert 0 < difference < most
    kinds = [{each.data_type for each in onnx.load(exported.folder / name).graph.initializer} for name in FILES]
    assert onnx.TensorProto.FLOAT16 in kinds[1] - kinds[0]
    assert onnx.TensorProto.INT8 in kinds[2] - kinds[0]
    graphs = [onnx.load(exported.folder / name).graph for name in FILES]
    for graph in graphs:
        tensors = [onnx.numpy_helper.to_array(each) for each in graph.initializer]
        classes = [each for each in tensors if each.dtype == np.float32 and sorted(each.shape) == [5, 40]]
        assert len(classes) == 1
        rows = classes[0] if classes[0].shape == (5, 40) else classes[0].T
        np.testing.assert_array_equal(rows, classifier.matrix.class_embeds.numpy())
    sizes = [file.size for file in exported.files]
    assert sizes == [(exported.folder / name).stat().st_size for name in FILES]
    assert sizes[0] > sizes[1]
    assert sizes[0] > sizes[2]


def test_what_is_told_of_the_files(exported, classifier):
    assert [file.precision for file in exported.files] == ["float32", "float16", "int8"]
    assert [file.path for file in exported.files] == [exported.folder / name for name in FILES]
    assert exported.files[0].difference < 1e-4 < exported.files[1].difference < exported.files[2].difference
    assert exported.files[0].best_alike == 1


def test_the_layout_that_other_runtimes_read(exported, clip_processor):
    """Inputs, outputs, labels and the image processor; one axis is free, the batch."""
    held = {path.relative_to(exported.folder).as_posix() for path in exported.folder.rglob("*") if path.is_file()}
    assert held == {"config.json", "preprocessor_config.json", *FILES}
    [given], [result] = (
        getattr(onnxruntime.InferenceSession(str(exported.folder / FILES[2])), name)()
        for name in ("get_inputs", "get_outputs")
    )
    assert (given.name, given.shape, given.type) == ("pixel_values", ["batch", 3, 16, 16], "tensor(float)")
    assert (result.name, result.shape, result.type) == ("logits", ["batch", 4], "tensor(float)")
    config = AutoConfig.from_pretrained(exported.folder)
    assert (config.model_type, config.architectures) == ("vit", ["ViTForImageClassification"])
    assert config.id2label == {0: "cat", 1: "犬", 2: "dog", 3: "other"}
    assert (config.image_size, config.min_probability) == (16, 0.3)
    loaded = AutoImageProcessor.from_pretrained(exported.folder)
    picture = Image.effect_noise((30, 20), 50).convert("RGB")
    expected, found = (each(picture, return_tensors="pt")["pixel_values"] for each in (clip_processor, loaded))
    assert torch.equal(found, expected)
    assert json.loads((exported.folder / "preprocessor_config.json").read_text())["image_processor_type"]
    assert exported.folder.stat().st_mode & 0o777 == exported.folder.parent.stat().st_mode & 0o777 | 0o055


def test_the_service_of_the_examples_reads_the_folder(exported, classifier, clip_processor, monkeypatch):
    """What it answers of a picture is what torch says, at the temperature and with "other"."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "examples" / "serving")
    served = importlib.import_module("app").Classifier(exported.folder, threads=1)
    picture = Image.effect_noise((16, 16), 50).convert("RGB")
    answer = served.answer(served.run(served.prepare(picture)[None])[0], 4)
    with torch.no_grad():
        [expected] = classifier(**clip_processor(picture, return_tensors="pt")).logits.softmax(-1)
    scores = {each["label"]: each["score"] for each in answer}
    assert scores == pytest.approx(dict(zip([*NAMES, "other"], expected.tolist(), strict=True)), abs=1e-4)
    assert (answer[0]["label"] == "other") == bool(expected[:3].max() < 0.3)


@pytest.mark.parametrize(("key", "position"), [("clip", "middle"), ("siglip.2", "end")])
def test_a_prompt_that_looks_at_each_image_has_its_text_tower_in_the_graph(key, position, tmp_path):
    """Read as a tree whose ends are frozen, or whole by another tower, with a bias; of its precisions one alone."""
    family = FAMILIES[key]
    family.make_tokenizer(tmp_path / "tokenizer")
    settings = {"n_ctx": 4, "ctx_init": None, "class_token_position": position, "calibration_temperature": 2.0}
    settings |= {"meta_net_reduction": 4, "tokenizer_name_or_path": str(tmp_path / "tokenizer")}
    model = drawn(get_peft_model(family.make_model(), CoCoOpConfig(class_names=NAMES, **settings)))
    kind = SiglipImageProcessor if key == "siglip.2" else CLIPImageProcessor
    processor = kind(size={"height": 16, "width": 16}, do_center_crop=False)
    [file] = export_onnx(model, processor, tmp_path / "onnx", ["float32"])
    for batch in (1, 3):
        expected = torch_logits(model, images(batch)) / 2
        most = 1e-4 * max(1, np.abs(expected).max())
        np.testing.assert_allclose(run(file.path, images(batch)), expected, rtol=0, atol=most)
    assert {path.name for path in (tmp_path / "onnx" / "onnx").iterdir()} == {"model.onnx"}


def test_images_of_any_shape_are_refused(tmp_path):
    family = FAMILIES["siglip2"]
    family.make_tokenizer(tmp_path / "tokenizer")
    config = CoOpConfig(class_names=NAMES, n_ctx=4, tokenizer_name_or_path=str(tmp_path / "tokenizer"))
    classifier = get_peft_model(family.make_model(), config).to_classifier()
    with pytest.raises(ValueError, match="Siglip2Model cannot be exported to ONNX: its images are of any shape"):
        export_onnx(classifier, None, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def put_in_place(monkeypatch, exported, change):
    """Instead of tracing again, the graph that was exported, changed by a function."""

    def write_graph(graph, example, path):
        graph = onnx.load(exported.folder / FILES[0])
        change(graph)
        onnx.save(graph, path)

    monkeypatch.setattr(onnx_folder, "write_graph", write_graph)


def scaled(by):
    def change(graph):
        [scale] = [each for each in graph.graph.initializer if each.name.endswith("cosine_scale")]
        value = onnx.numpy_helper.to_array(scale) * np.float32(by)
        scale.CopyFrom(onnx.numpy_helper.from_array(value, scale.name))

    return change


@pytest.mark.parametrize(
    ("by", "told"),
    [
        (1.01, r"in float32 differ from torch's by up to \d\.\de-0\d, more than 1e-04\. Nothing was written"),
        (np.nan, r"in float32 are not finite: leave float32 out\. Nothing was written"),
    ],
)
def test_what_is_not_torchs_is_not_written(exported, classifier, clip_processor, monkeypatch, by, told, tmp_path):
    put_in_place(monkeypatch, exported, scaled(by))
    with pytest.raises(RuntimeError, match=told):
        export_onnx(classifier, clip_processor, tmp_path / "onnx", ["float32"])
    assert not list(tmp_path.iterdir())


def test_one_batch_size_alone_is_noticed(exported, classifier, clip_processor, monkeypatch, tmp_path):
    def fixed(graph):
        graph.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2

    put_in_place(monkeypatch, exported, fixed)
    with pytest.raises(Exception, match=r"Got: 1 Expected: 2"):  # ONNX Runtime's own
        export_onnx(classifier, clip_processor, tmp_path / "onnx", ["float32"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("forward", "told"),
    [
        (lambda self, pixels: pixels.mean((2, 3)).expand(len(pixels), -1), "for batches of 2 alone: something in it"),
        (lambda self, pixels: pixels.mean((2, 3)) if pixels.sum() > 0 else -pixels, "so that it is no graph: Could n"),
    ],
)
def test_what_cannot_be_traced_for_any_batch_size_is_told(classifier, monkeypatch, forward, told, tmp_path):
    monkeypatch.setattr(ClassMatrixGraph, "forward", lambda self, pixel_values: forward(self, pixel_values))
    with pytest.raises(RuntimeError, match=f"torch .* ClassMatrixForImageClassification.* {told}"):
        onnx_graph.write_graph(ClassMatrixGraph(classifier), images(2), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_nothing_is_written_over(classifier, clip_processor, tmp_path):
    (tmp_path / "mine").touch()
    with pytest.raises(FileExistsError, match=f"{re.escape(str(tmp_path))} is there already"):
        export_onnx(classifier, clip_processor, tmp_path)
    with pytest.raises(ValueError, match=r"`precisions` must be among .*'int8'.*, got 'int4'"):
        export_onnx(classifier, clip_processor, tmp_path / "onnx", ["int4"])
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_what_is_missing_is_told_first(classifier, clip_processor, monkeypatch, tmp_path):
    monkeypatch.setattr(onnx_graph, "PACKAGES", ("onnx", "not_there"))
    with pytest.raises(ImportError, match=r"'not_there' is not installed: pip install \"peft-coop\[onnx\]\""):
        export_onnx(classifier, clip_processor, tmp_path / "onnx")
    monkeypatch.undo()
    monkeypatch.setattr(onnx_graph, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match=r"0\.0 GiB in float32 is too large for one ONNX file"):
        export_onnx(classifier, clip_processor, tmp_path / "onnx")
