"""A classifier without adapters, against the model that it was made of; what claims equality is in float64."""

import subprocess
import sys
from copy import deepcopy
from functools import cache, partial

import pytest
import torch
from conftest import make_clip
from method_kinds import kinds, small_config
from model_copies import copies_of
from peft import IA3Config, LoraConfig, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from PIL import Image
from tiny_families import FAMILIES
from transformers import (
    AutoModelForImageClassification,
    CLIPImageProcessor,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
    pipeline,
)
from transformers.utils import logging

from peft_coop import CoOpConfig, VPTConfig
from peft_coop.export import ClassMatrixForImageClassification, image_fingerprint
from peft_coop.methods import METHODS
from peft_coop.towers import FAMILIES as ROWS

NAMES = ["Katze", "犬", "great white shark", "dog", "dog"]
SHORT = ["cat", "犬", "dog"]
IMAGE_METHODS = [key for key, method in METHODS.items() if method.config.task_name == "IMAGE_CLS"]
KINDS = {kind.name: kind for kind in kinds() if kind.method != "csp" and kind.method in IMAGE_METHODS}
SUPPORTED = {key: family for key, family in FAMILIES.items() if family.model_type in ROWS}
IN_A_FRESH_PROCESS = """
import sys
sys.modules["peft_coop"] = sys.modules["peft"] = None
import torch
from PIL import Image
from transformers import pipeline
classify = pipeline("image-classification", sys.argv[1], trust_remote_code=True)
torch.save(classify.model(torch.load(sys.argv[2])).logits, sys.argv[3])
print(classify(Image.new("RGB", (20, 20), "red"))[0]["label"])
"""

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*'dog'.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*does not know words of these class names:UserWarning"),
    pytest.mark.filterwarnings("ignore:You are trying to modify a model with PEFT for a second time"),
    pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute in the model"),
]


@torch.no_grad()
def drawn(model):
    """A prompt whose vectors are anything; positive where it is a bias, so that no hidden unit is off for all."""
    for name, weight in model.prompt_layer.prompt.named_parameters():
        weight.normal_(std=0.3, generator=torch.Generator().manual_seed(3))
        if name.endswith("bias"):
            weight.abs_().add_(1)
    return model.eval()


@pytest.fixture
def make_model(tokenizer_path):
    def make(config=None, dtype=torch.float64, **settings):
        config = config or CoOpConfig(n_ctx=4, **settings)
        config.class_names, config.tokenizer_name_or_path = NAMES, tokenizer_path
        torch.manual_seed(0)
        return drawn(get_peft_model(make_clip(), config).to(dtype))

    return make


@pytest.fixture
def images(pixel_values):
    return pixel_values.double()


@pytest.fixture
def image_processor():
    return CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})


@torch.no_grad()
def logits(model, *images, **named):
    return model(*images, **named).logits


def check(classifier, model, atol=1e-9, **images):
    expected = logits(model, **images)
    torch.testing.assert_close(logits(classifier, **images), expected, atol=atol, rtol=0)
    return expected


@cache
def of_family(key):
    return copies_of(SUPPORTED[key].make_model().double())


@pytest.mark.parametrize("key", SUPPORTED)
def test_every_family_and_back_from_disk(key, tmp_path):
    """AIMv2's norm and ALIGN's softmax are float32 in any case."""
    SUPPORTED[key].make_tokenizer(tmp_path / "tokenizer")
    config = CoOpConfig(class_names=SHORT, n_ctx=4, tokenizer_name_or_path=str(tmp_path / "tokenizer"))
    model = drawn(get_peft_model(of_family(key)(), config).double())
    images = {name: x.double() if x.is_floating_point() else x for name, x in SUPPORTED[key].image_inputs().items()}
    classifier = model.to_classifier()
    atol = 1e-5 if key in ("aimv2", "align") else 1e-9
    check(classifier, model, atol, **images)
    classifier.save_pretrained(tmp_path / "classifier")
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path / "classifier")
    check(loaded, model, atol, **images)
    assert type(loaded) is ClassMatrixForImageClassification
    weights = set(dict(loaded.named_parameters()))
    assert weights
    assert all(name.split(".")[1] in ROWS[SUPPORTED[key].model_type].image_parts for name in weights)


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_method(kind, make_model, images):
    """Prompts in the vision tower go along; a prompt that needs the image is refused."""
    model = make_model(kind.config())
    if model.prompt_layer.prompt.needs_images:
        with pytest.raises(ValueError, match=r"reads them anew for each image, .* `peft_coop\.export\.export_onnx`"):
            model.to_classifier()
        return
    classifier = model.to_classifier()
    check(classifier, model, pixel_values=images)
    assert (classifier.vision_prompts is not None) == model.prompt_layer.prompt.settings.changes_vision
    with model.disable_adapter():
        zero_shot = model.to_classifier()
        check(zero_shot, model, pixel_values=images)
    assert zero_shot.vision_prompts is None


def test_pairs_of_words(tokenizer_path, images):
    config = small_config("csp", class_names=NAMES[:3], tokenizer_name_or_path=tokenizer_path)
    model = drawn(get_peft_model(make_clip(), config).double())
    classifier = model.to_classifier()
    check(classifier, model, pixel_values=images)
    assert list(classifier.config.id2label.values()) == model.class_names


@pytest.mark.parametrize("key", ["siglip", "vision-text-dual-encoder", "tipsv2", "owlvit"])
def test_prompts_of_other_vision_towers(key, tmp_path):
    SUPPORTED[key].make_tokenizer(tmp_path)
    config = VPTConfig(class_names=SHORT, n_ctx_vision=3, tokenizer_name_or_path=str(tmp_path))
    model = drawn(get_peft_model(of_family(key)(), config).double())
    classifier = model.to_classifier()
    assert classifier.vision_prompts.vectors.shape == (2, 3, 32)
    images = {name: value.double() for name, value in SUPPORTED[key].image_inputs().items()}
    with_prompts = check(classifier, model, pixel_values=images["pixel_values"])
    classifier.vision_prompts.vectors.neg_()
    assert (logits(classifier, **images) - with_prompts).abs().max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_classes_stay_exact_in_other_dtypes(make_model, pixel_values, dtype, tmp_path):
    """In bfloat16 both compute the same, so that the logits are as close as in float32."""
    model = make_model(dtype=dtype)
    classifier = model.to_classifier()
    check(classifier, model, 1e-5, pixel_values=pixel_values.to(dtype))
    classifier.save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    check(loaded, model, 1e-5, pixel_values=pixel_values.to(dtype))
    assert (loaded.dtype, loaded.matrix.class_embeds.dtype) == (dtype, torch.float32)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert (loaded.dtype, loaded.matrix.class_embeds.dtype) == (torch.bfloat16, torch.float32)


def test_autocast(make_model, pixel_values):
    model = make_model(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        expected = check(model.to_classifier(), model, 1e-5, pixel_values=pixel_values)
    assert expected.dtype == torch.float32


def test_the_labels_and_what_is_no_longer_there(make_model):
    model = make_model()
    model.get_base_model().name_or_path = "/home/someone/clip"
    classifier = model.to_classifier()
    assert isinstance(classifier, PreTrainedModel)
    assert list(classifier.config.id2label.values()) == NAMES
    assert classifier.config.label2id["dog"] == 4
    assert classifier.config.num_labels == 5
    assert "/home/someone" not in classifier.config.to_json_string()
    assert not hasattr(classifier, "peft_config")
    names = [name for name, _ in classifier.named_modules()]
    assert not any("text" in name or "lora" in name for name in names)


def test_one_class(make_model, images, tmp_path):
    model = make_model()
    model.set_classes(["dog"])
    model.to_classifier().save_pretrained(tmp_path)
    classifier = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert check(classifier, model, pixel_values=images).shape == (5, 1)
    assert classifier(images, labels=torch.zeros(5, dtype=torch.long)).loss == 0


def test_what_the_adapter_decides_by(make_model, images, tmp_path):
    """The softmax of the logits is what is decided by: at the temperature, and other names together are "other"."""
    settings = {"calibration_temperature": 2.5, "min_probability": 0.4, "other_names": ["car", "house"]}
    model = make_model(**settings)
    model.to_classifier().save_pretrained(tmp_path)
    classifier = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert list(classifier.config.id2label.values()) == [*NAMES, "other"]
    assert classifier.config.min_probability == 0.4
    plain = make_model()
    plain.set_classes([*NAMES, "car", "house"])
    each = (logits(plain, pixel_values=images) / 2.5).softmax(-1)
    expected = torch.cat([each[:, :5], each[:, 5:].sum(-1, keepdim=True)], dim=-1)
    torch.testing.assert_close(logits(classifier, images).softmax(-1), expected, atol=1e-9, rtol=0)
    with model.disable_adapter():
        zero_shot = model.to_classifier()
        check(zero_shot, model, pixel_values=images)
    assert list(zero_shot.config.id2label.values()) == NAMES
    assert zero_shot.config.min_probability is None


def test_any_number_of_labels(make_model, images, pixel_values, image_processor, tmp_path):
    """The scale and the bias are the prompt's own, and probabilities a sigmoid's, also a pipeline's."""
    model = make_model(problem_type="multi_label_classification")
    classifier = model.to_classifier()
    check(classifier, model, pixel_values=images)
    assert classifier.matrix.cosine_scale.item() == pytest.approx(model.prompt_layer.prompt.label_scale.exp().item())
    labels = torch.eye(5)
    expected = model(pixel_values=images, labels=labels).loss / 5  # transformers' is the mean over classes, too
    torch.testing.assert_close(classifier(images, labels=labels).loss, expected, atol=1e-9, rtol=0)
    classifier.float().save_pretrained(tmp_path)
    picture = Image.new("RGB", (20, 30), "red")
    found = pipeline("image-classification", str(tmp_path), image_processor=image_processor)([picture], top_k=5)[0]
    inputs = image_processor(picture, return_tensors="pt")["pixel_values"].double()
    expected = model.probabilities(pixel_values=inputs)[0].sort(descending=True).values
    assert [each["score"] for each in found] == pytest.approx(expected.tolist(), abs=1e-4)
    with model.disable_adapter():
        zero_shot = model.to_classifier()
        check(zero_shot, model, pixel_values=images)
    assert zero_shot.config.problem_type == "single_label_classification"


def lora(*targets, **settings):
    return LoraConfig(r=2, target_modules=list(targets), init_lora_weights=False, **settings)


ADAPTERS = {
    "lora": lora("q_proj", "fc1", "visual_projection", "text_projection"),
    "dora": lora("q_proj", "visual_projection", use_dora=True),
    "biases": lora("fc1", bias="lora_only"),
    "ia3": IA3Config(target_modules=["fc2"], feedforward_modules=["fc2"], init_ia3_weights=False),
    "saved module": lora("q_proj", modules_to_save=["visual_projection"]),
}


def snapshot(model):
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    return tensors, [(type(module), module.training, getattr(module, "merged", None)) for module in model.modules()]


@pytest.mark.filterwarnings("ignore:Unmerge result can be inaccurate:UserWarning")
@pytest.mark.parametrize("state", ["active", "merged", "disabled", "merged and disabled"])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_other_adapters_are_merged_in_the_copy_and_the_model_stays(make_model, images, adapter, state):
    model = make_model()
    model.add_adapter("beside", deepcopy(ADAPTERS[adapter]))
    model.double().eval()
    for name, weight in model.named_parameters():
        if "modules_to_save" in name:
            weight.data.neg_()
    before = logits(model, pixel_values=images)
    if "merged" in state:
        model.merge_adapter(["beside"])
    if "disabled" in state:
        model.base_model.disable_adapter_layers()
        logits(model, pixel_values=images)  # in which PEFT takes out what was merged
    tensors, modules = snapshot(model)
    classifier = model.to_classifier()
    tensors_after, modules_after = snapshot(model)
    assert modules_after == modules
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in tensors_after.items())
    check(classifier, model, pixel_values=images)
    assert ("disabled" in state) == bool((logits(model, pixel_values=images) - before).abs().max() > 1e-3)
    assert not any("lora" in name or "base_layer" in name for name in classifier.state_dict())


def test_an_adapter_within_another_one(make_model, images):
    """(IA)³ first, and LoRA around it: what is inside is merged first."""
    model = make_model()
    model.add_adapter("inner", IA3Config(target_modules=["fc2"], feedforward_modules=[], init_ia3_weights=False))
    model.add_adapter("outer", lora("fc2"))
    model.double().eval()
    check(model.to_classifier(), model, pixel_values=images)


def test_an_inactive_adapter_is_left_out(make_model, images):
    model = make_model()
    for name in ("first", "second"):
        model.add_adapter(name, lora("q_proj", "visual_projection"))
    model.double().eval()
    check(model.to_classifier(), model, pixel_values=images)
    first = logits(model, pixel_values=images)
    model.set_adapter("second")
    assert (check(model.to_classifier(), model, pixel_values=images) - first).abs().max() > 1e-3


def test_what_cannot_be_merged_is_refused(make_model, monkeypatch):
    model = make_model()
    model.add_adapter("lora", lora("visual_projection"))

    def merge(self, **_):
        raise NotImplementedError("this kind cannot")

    monkeypatch.setattr(LoraLinear, "merge", merge)
    with pytest.raises(ValueError, match="The adapter at 'visual_projection' cannot be merged into the image side: th"):
        model.to_classifier()


def test_a_vision_tower_that_is_compiled_in_its_place(make_model, images):
    """What stands around it is left out, and its fingerprint is the tower's."""
    model = make_model()
    expected, fingerprint = logits(model, pixel_values=images), image_fingerprint(model)
    clip = model.get_base_model()
    clip.vision_model = torch.compile(clip.vision_model, backend="eager")
    torch.testing.assert_close(logits(model.to_classifier(), images), expected, atol=1e-9, rtol=0)
    assert image_fingerprint(model) == fingerprint


def test_weights_that_are_not_in_memory_are_refused(make_model):
    """As accelerate leaves them where they are on a disk."""
    model = make_model()
    model.get_base_model().visual_projection.to("meta")
    with pytest.raises(ValueError, match=r"weights of Linear are not in memory \('weight' is on the device 'meta'\)"):
        model.to_classifier()


class Quantised(torch.nn.Parameter):
    """A kind of weight of another library."""


def test_quantised_weights_are_refused(make_model):
    model = make_model()
    layer = model.get_base_model().visual_projection
    layer.weight = Quantised(layer.weight.data, requires_grad=False)
    for export in (model.to_classifier, partial(image_fingerprint, model)):
        with pytest.raises(ValueError, match=r"'weight' is a Quantised\): load the model without quantisation"):
            export()


def test_nothing_is_shared_with_the_model(make_model, images):
    model = make_model(VPTConfig(n_ctx_vision=3))
    classifier = model.to_classifier()
    expected = logits(model, pixel_values=images)
    with torch.no_grad():
        for tensor in (*classifier.parameters(), *classifier.buffers()):
            tensor.zero_() if tensor.is_floating_point() else None
    assert torch.equal(logits(model, pixel_values=images), expected)


def test_a_copy_reads_its_own_prompts(make_model, images):
    classifier = make_model(VPTConfig(n_ctx_vision=3)).to_classifier()
    expected, copied = logits(classifier, images), deepcopy(classifier)
    classifier.vision_prompts.vectors.neg_()
    assert torch.equal(logits(copied, images), expected)
    assert (logits(classifier, images) - expected).abs().max() > 1e-3


def test_a_fresh_process_without_this_library(make_model, images, image_processor, tmp_path):
    """The code that lies beside the weights is all that it needs; prompts in the vision tower included."""
    model = make_model(VPTConfig(n_ctx_vision=3))
    folder, given, out = tmp_path / "classifier", tmp_path / "images.pt", tmp_path / "logits.pt"
    model.to_classifier().save_pretrained(folder)
    image_processor.save_pretrained(folder)
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "model.safetensors",
        "modeling_class_matrix.py",
        "preprocessor_config.json",
    }
    torch.save(images, given)
    command = [sys.executable, "-c", IN_A_FRESH_PROCESS, str(folder), str(given), str(out)]
    environment = {"HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    torch.testing.assert_close(torch.load(out), logits(model, pixel_values=images), atol=1e-9, rtol=0)
    assert ran.stdout.strip() in NAMES


def test_a_pipeline(make_model, image_processor, caplog):
    model = make_model(dtype=torch.float32)
    logging.enable_propagation()
    classify = pipeline("image-classification", model.to_classifier(), image_processor=image_processor)
    picture = Image.new("RGB", (20, 30), "red")
    [best] = classify([picture], top_k=1)
    logging.disable_propagation()
    assert "not supported" not in caplog.text
    inputs = image_processor(picture, return_tensors="pt")
    [expected] = logits(model, **inputs).softmax(-1)
    assert best[0]["label"] == NAMES[expected.argmax()]
    assert best[0]["score"] == pytest.approx(expected.max().item(), abs=1e-5)


def test_the_trainer_evaluates_it(make_model, pixel_values, tmp_path):
    model = make_model(dtype=torch.float32)
    rows = [{"pixel_values": image, "labels": index} for index, image in enumerate(pixel_values)]
    arguments = TrainingArguments(tmp_path, report_to=[], use_cpu=True, per_device_eval_batch_size=2)
    trainers = [Trainer(each, arguments, eval_dataset=rows) for each in (model, model.to_classifier())]
    expected, found = (trainer.predict(rows) for trainer in trainers)
    assert found.metrics["test_loss"] == pytest.approx(expected.metrics["test_loss"], abs=1e-5)
    torch.testing.assert_close(*(torch.from_numpy(each.predictions) for each in (found, expected)), atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor, torch.quantize_per_channel:UserWarning")
@pytest.mark.filterwarnings("ignore:must run observer before calling calculate_qparams:UserWarning")
@pytest.mark.parametrize("method", ["coop", "vpt"])
def test_torchs_own_int8(make_model, pixel_values, method):
    """The layers of the tower are quantised, and the matrix of classes is not."""
    config = {"coop": partial(CoOpConfig, n_ctx=4), "vpt": partial(VPTConfig, n_ctx_vision=3)}[method]()
    classifier = make_model(config, dtype=torch.float32).to_classifier()
    quantised = torch.ao.quantization.quantize_dynamic(classifier, {torch.nn.Linear}, torch.qint8)
    assert "DynamicQuantizedLinear" in str(quantised.encoder.visual_projection)
    assert torch.equal(quantised.matrix.class_embeds, classifier.matrix.class_embeds)
    expected, found = logits(classifier, pixel_values), logits(quantised, pixel_values)
    assert 0 < (found - expected).abs().max() < 1  # of logits that differ by several


def test_what_was_compiled_without_prompts_is_not_run_for_a_tower_with_some(make_model, images):
    """`torch.compile` does not look at hooks: both have the same layers."""
    torch._dynamo.reset()
    for config in (CoOpConfig(n_ctx=4), VPTConfig(n_ctx_vision=3), CoOpConfig(n_ctx=4)):
        classifier = make_model(config).to_classifier()
        compiled = torch.compile(classifier, backend="eager", fullgraph=True)
        torch.testing.assert_close(logits(compiled, images), logits(classifier, images), atol=1e-9, rtol=0)


def test_what_quantisers_ask_for(make_model):
    """The layer of the patches; and tensors in modules alone, of which torchao loads what it has saved."""
    classifier = make_model(VPTConfig(n_ctx_vision=3)).to_classifier()
    assert classifier.get_input_embeddings() is classifier.encoder.vision_model.embeddings.patch_embedding
    assert len(classifier.state_dict()) > 20
    assert all("." in name for name in classifier.state_dict())


def test_gradient_checkpointing_with_prompts_in_the_tower(make_model, images):
    gradients = []
    for checkpointing in (False, True):
        classifier = make_model(VPTConfig(n_ctx_vision=3)).to_classifier().train()
        if checkpointing:
            enable = getattr(classifier, "activation_checkpointing_enable", classifier.gradient_checkpointing_enable)
            enable()  # renamed in 5.x
        classifier(images, labels=torch.arange(5)).loss.backward()
        gradients.append(classifier.encoder.visual_projection.weight.grad)
    torch.testing.assert_close(*gradients, atol=1e-9, rtol=0)


def test_every_method_is_tried():
    assert {kind.method for kind in KINDS.values()} == set(IMAGE_METHODS) - {"csp"}
