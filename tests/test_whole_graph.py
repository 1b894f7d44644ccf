"""A model with a prompt as one module of pixels to logits, of every method, before it is a graph; in float64."""

from copy import deepcopy

import onnxruntime
import pytest
import torch
from conftest import make_clip
from method_kinds import COVERING, PAIRS, PLAIN_KINDS, small_config
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from task_inputs import FRAMES, as_given, task_of
from transformers import CLIPImageProcessor

from peft_coop import CoCoOpConfig, CoOpConfig
from peft_coop.export import export_onnx, fixed_classes
from peft_coop.export.group_norms import GroupNormOfMeans, by_means
from peft_coop.export.onnx_folder import graph_of
from peft_coop.export.onnx_graph import quiet
from peft_coop.export.whole_graph import WholeGraph
from peft_coop.models import decided_logits

NAMES = ["cat", "犬", "dog"]
EXACT = {"atol": 1e-9, "rtol": 0}

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not know words of these class names:UserWarning"),
    pytest.mark.filterwarnings("ignore:You are trying to modify a model with PEFT for a second time"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute in the model"),
]


@torch.no_grad()
def drawn(model):
    for weight in model.prompt_layer.prompt.parameters():
        weight.normal_(std=0.3, generator=torch.Generator().manual_seed(3))
    return model.eval()


@pytest.fixture
def make_model(tokenizer_path):
    def make(config):
        config.class_names, config.tokenizer_name_or_path = config.class_names or NAMES, tokenizer_path
        torch.manual_seed(0)
        return drawn(get_peft_model(make_clip(), config).double())

    return make


@torch.no_grad()
def check(model, **given):
    """The graph's logits are those that the model decides by."""
    graph = graph_of(model).eval()
    others = model.get_base_model().decision["other_names"] or []
    named = {"class_names": [*model.class_names, *others]} if others else {}
    logits = model(**given, **named).logits
    temperature = model.get_base_model().decision["calibration_temperature"]
    expected = decided_logits(logits, len(model.class_names), temperature)
    torch.testing.assert_close(graph(**given), expected, **EXACT)
    return graph, expected


@pytest.mark.parametrize("kind", PLAIN_KINDS, ids=lambda kind: kind.name)
def test_every_method(kind, make_model, pixel_values):
    """Images, videos and pixels, with the adapter and without; what needs each image as well."""
    model = make_model(kind.config(class_names=PAIRS if kind.method == "csp" else NAMES))
    images = as_given(kind.method, {"pixel_values": pixel_values.double()})
    graph, expected = check(model, **images)
    assert graph.labels == model.class_names
    assert (graph.text_features is None) == model.prompt_layer.prompt.needs_images
    assert graph.input_shape((3, 16, 16)) == images["pixel_values"].shape[1:]
    with model.disable_adapter():
        zero_shot, logits = check(model, **images)
    assert zero_shot.text_features is not None
    assert logits.shape != expected.shape or (logits - expected).abs().max() > 1e-4


@pytest.mark.parametrize("method", ["cocoop", "video_prompt"])
def test_what_the_adapter_decides_by(method, make_model, pixel_values):
    decision = {"calibration_temperature": 2.5, "min_probability": 0.4, "other_names": ["car", "house"]}
    model = make_model(small_config(method, **decision))
    graph, _ = check(model, **as_given(method, {"pixel_values": pixel_values.double()}))
    config = graph.config((3, 16, 16))
    assert config.id2label == {0: "cat", 1: "犬", 2: "dog", 3: "other"}
    assert (config.min_probability, config.n_others, config.encoder_model_type) == (0.4, 2, "clip")


TYPES = {
    "IMAGE_CLS": ("vit", "ViTForImageClassification"),
    "VIDEO_CLS": ("videomae", "VideoMAEForVideoClassification"),
    "SEMANTIC_SEG": ("segformer", "SegformerForSemanticSegmentation"),
}


@pytest.mark.parametrize("method", COVERING)
def test_what_the_config_says(method, make_model):
    graph = graph_of(make_model(small_config(method, class_names=NAMES)))
    config = graph.config((3, 16, 32))
    assert (config.model_type, *config.architectures) == TYPES[task_of(method)]
    assert (config.num_channels, list(config.image_size)) == (3, [16, 32])
    assert list(config.id2label.values()) == graph.labels
    assert config.problem_type == "single_label_classification"
    if config.model_type == "videomae":
        assert (config.num_frames, config.frame_sampling) == (FRAMES, "linspace")


def lora(*targets):
    return LoraConfig(r=2, target_modules=list(targets), init_lora_weights=False)


@pytest.mark.parametrize("method", ["cocoop", "video_prompt", "dense_clip"])
def test_other_adapters_count_and_the_model_stays(method, make_model, pixel_values):
    """In both towers; merged in the copy where an image passes, and nothing is shared with it."""
    model = make_model(small_config(method))
    images = as_given(method, {"pixel_values": pixel_values.double()})
    with torch.no_grad():
        before = model(**images).logits
    model.add_adapter("beside", lora("q_proj", "fc1", "visual_projection"))
    model.double().eval()
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    graph, expected = check(model, **images)
    assert (expected - before).abs().max() > 1e-4
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in model.state_dict().items())
    assert not any("vision" in name and "lora" in name for name in graph.state_dict())
    with torch.no_grad():
        for tensor in graph.state_dict().values():
            tensor.zero_()
    check(model, **images)


@torch.no_grad()
@pytest.mark.parametrize("method", ["cocoop", "dense_clip", "vpt"])
def test_towers_are_rounded_and_the_rest_is_not(method, make_model, pixel_values):
    graph = graph_of(make_model(small_config(method))).float()
    expected = graph(pixel_values)
    graph.round_to(torch.float16)
    found = graph(pixel_values)
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() < 0.1  # of logits up to about 5
    kept = {name for name, each in graph.model.named_parameters() if each.dtype == torch.float32}
    learned = {name for name, _ in graph.model.named_parameters() if "learned_prompts" in name}
    assert learned
    assert kept == {"logit_scale", *learned}


def test_the_size_of_a_file_has_the_text_tower_only_where_it_is_needed(make_model):
    plain, whole = (graph_of(make_model(kind(n_ctx=4, ctx_init=None))) for kind in (CoOpConfig, CoCoOpConfig))
    text = sum(each.numel() for each in make_clip().text_model.parameters())
    assert whole.num_weights - plain.num_weights > text
    assert plain.num_weights < sum(each.numel() for each in make_clip().parameters()) - text


def test_modules_that_an_adapter_has_trained_must_be_in_use(make_model):
    """PEFT's own functions switch them off without a word; what is exported then would be another model."""
    model = make_model(CoOpConfig(n_ctx=4, modules_to_save=["visual_projection"]))
    inject_adapter_in_model(lora("q_proj"), model.get_base_model(), "style")
    for export in (WholeGraph, fixed_classes):
        with pytest.raises(ValueError, match=r"trained of 'visual_projection' is not, .*`set_adapter"):
            export(model.get_base_model())


def test_a_model_without_a_prompt_is_refused():
    with pytest.raises(TypeError, match="A model with a learned prompt is needed; got CLIPModel"):
        graph_of(make_clip())


def test_a_head_that_says_nothing_of_graphs_is_refused(make_model, monkeypatch):
    graph = graph_of(make_model(CoOpConfig(n_ctx=4)))
    head = type(graph.model.prompt_layer.prompt.task_head)
    monkeypatch.delattr(head, "graph_config")
    with pytest.raises(ValueError, match="ImageClassificationHead does not say which model of transformers a graph"):
        graph.config((3, 16, 16))


def test_an_image_processor_that_crops_is_not_for_pixels(make_model, tmp_path):
    """Pipelines would stretch the masks of what is left over the whole image."""
    model = make_model(small_config("dense_clip"))
    with pytest.raises(ValueError, match=r"CLIPImageProcessor\w* crops images, .* `peft_coop\.data\.mask_image_proc"):
        export_onnx(model, CLIPImageProcessor(), tmp_path / "onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("groups", [1, 2])
def test_group_norms_by_means_are_torchs(groups):
    norm = torch.nn.GroupNorm(groups, 6).double()
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    maps = torch.randn(2, 6, 3, 5, generator=torch.Generator().manual_seed(1)).double() * 3 + 1
    expected = norm(maps)
    holder = torch.nn.Sequential(norm)
    by_means(holder)
    assert type(holder[0]) is GroupNormOfMeans
    torch.testing.assert_close(holder(maps), expected, **EXACT)


def test_large_maps_are_normalised_as_exactly_in_onnx_runtime(tmp_path):
    """By torch's own translation they are off by 40 times as much, and a ViT-B's logits by more than is allowed."""
    norm = torch.nn.Sequential(torch.nn.GroupNorm(1, 256)).eval()
    maps = torch.randn(1, 256, 32, 32, generator=torch.Generator().manual_seed(1)) + 1
    maps[:, 5] *= 40  # as ViTs have channels
    expected = norm.double()(maps.double()).detach()
    by_means(norm.float())
    with quiet():
        torch.onnx.export(norm, (maps,), dynamo=True, verbose=False).save(tmp_path / "norm.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "norm.onnx"))
    [found] = session.run(None, {session.get_inputs()[0].name: maps.numpy()})
    torch.testing.assert_close(torch.from_numpy(found).double(), expected, atol=1e-4, rtol=0)  # of up to 52


def test_a_copy_of_a_graph_is_a_graph(make_model, pixel_values):
    graph = graph_of(make_model(small_config("cocoop")))
    with torch.no_grad():
        torch.testing.assert_close(deepcopy(graph)(pixel_values.double()), graph(pixel_values.double()), **EXACT)
