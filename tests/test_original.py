"""The original's checkpoints become adapters with the original's numbers, and go back."""

import json
import pickle
import re

import numpy as np
import pytest
import torch
from conftest import make_clip
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from peft_coop import CoOpConfig
from peft_coop.hub.original import convert_original, export_original, read_original, recover_class_names
from peft_coop.prompts import PromptTokenizer

# As written by a human, and as they come back.
NAMES = {
    "great white shark": "great white shark",
    "Boeing 737-200": "boeing 737-200",
    "kite (bird of prey)": "kite (bird of prey)",
    "jack-o'-lantern": "jack-o'-lantern",
    "BMW_M3 Coupe": "bmw m3 coupe",
    "St. Bernard": "st. bernard",
    "A300B4": "a300 b4",
    "Dodge Charger SRT-8 2009": "dodge charger srt-8 2009",
    "men's t shirt.": "men's t shirt.",
}
POSITIONS = ["end", "middle", "front"]


class Warmup(LRScheduler):
    """Keeps its successor as an attribute, as the original's does, so that its state holds an object."""

    def __init__(self, optimizer, successor):
        self.successor = successor
        super().__init__(optimizer)

    def get_lr(self):
        return [1e-5 for _ in self.base_lrs]


def state_of_training():
    """What the original saves beside the tensors."""
    parameter = nn.Parameter(torch.zeros(4, 24))
    optimizer = torch.optim.SGD([parameter], lr=0.002, momentum=0.9)
    scheduler = Warmup(optimizer, CosineAnnealingLR(optimizer, 50.0))
    parameter.sum().backward()
    optimizer.step()
    return {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict()}


def frozen_parts(clip, tokenizer, class_names, n_ctx):
    """Prefix and suffix as the original computes them: of "X X … name.", padded to 77 with zeros."""
    ids = torch.zeros(len(class_names), 77, dtype=torch.long)
    for row, name in zip(ids, class_names, strict=True):
        tokens = tokenizer(f"{' '.join(['X'] * n_ctx)} {name.replace('_', ' ')}.")["input_ids"]
        row[: len(tokens)] = torch.tensor(tokens)
    embedding = clip.text_model.embeddings.token_embedding(ids).detach()
    return {"token_prefix": embedding[:, :1], "token_suffix": embedding[:, 1 + n_ctx :]}, ids


@pytest.fixture
def write(tmp_path):
    """Write a checkpoint of tensors, with everything that the original writes."""

    def write(tensors, **others):
        path = tmp_path / "prompt_learner" / "model.pth.tar-50"
        path.parent.mkdir(exist_ok=True)
        beside = {"epoch": 50, "val_result": np.float64(81.2), **state_of_training()}
        torch.save({"state_dict": tensors, **beside, **others}, path)
        return path

    return write


@pytest.fixture
def checkpoint(write, tokenizer):
    """Write a checkpoint for the tiny CLIP, with random vectors, and return the path and the tensors."""

    def make(class_names=("cat", "great white shark"), n_ctx=4, class_specific=False, meta_net=False, **tensors):
        clip = make_clip()
        generator = torch.Generator().manual_seed(7)
        shape = (len(class_names), n_ctx, 24) if class_specific else (n_ctx, 24)
        made = {"ctx": torch.randn(shape, generator=generator)}
        made |= frozen_parts(clip, tokenizer, class_names, n_ctx)[0]
        if meta_net:
            sizes = {"linear1.weight": (2, 40), "linear1.bias": (2,), "linear2.weight": (24, 2), "linear2.bias": (24,)}
            made |= {f"meta_net.{key}": torch.randn(size, generator=generator) for key, size in sizes.items()}
        made |= tensors
        made = {key: value for key, value in made.items() if value is not None}
        return write(made), made

    return make


@pytest.fixture
def convert(tmp_path, tokenizer_path):
    """Convert a checkpoint and load the adapter on the tiny CLIP."""

    def convert(path, clip=None, **settings):
        settings = {"tokenizer_name_or_path": tokenizer_path, **settings}
        convert_original(path, clip or make_clip(), tmp_path / "adapter", **settings)
        return PeftModel.from_pretrained(clip or make_clip(), tmp_path / "adapter").eval()

    return convert


@pytest.mark.parametrize("when", ["", "final."])
@pytest.mark.parametrize("key", ["case0", "case1", "case2"])
def test_golden_numbers(golden, golden_clip, tokenizer, write, convert, key, when):
    tensors = {name.removeprefix(f"{key}/"): value for name, value in golden["tensors"].items() if name.startswith(key)}
    learned = {name: tensors[when + name] for name in tensors if name == "ctx" or name.startswith("meta_net.")}
    frozen, _ = frozen_parts(golden_clip, tokenizer, golden["class_names"], 4)
    model = convert(write({**learned, **frozen}), golden_clip)
    with torch.no_grad():
        logits = model(pixel_values=golden["tensors"]["pixel_values"]).logits
    torch.testing.assert_close(logits, tensors[f"{when}logits"], atol=1e-4 if not when else 2e-3, rtol=0)
    assert model.class_names == [name.lower() for name in golden["class_names"]]


def original_logits(clip, tensors, ids, name_lengths, position, pixel_values):
    """Logits with the prompts put together from the file's tensors alone, all 77 positions through CLIP itself."""
    n_cls, n_ctx = len(ids), tensors["ctx"].shape[-2]
    ctx = tensors["ctx"].expand(n_cls, n_ctx, -1)
    before = {"end": n_ctx, "middle": n_ctx // 2, "front": 0}[position]
    rows = [
        torch.cat([prefix, vectors[:before], suffix[:length], vectors[before:], suffix[length:]])
        for prefix, vectors, suffix, length in zip(
            tensors["token_prefix"], ctx, tensors["token_suffix"], name_lengths, strict=True
        )
    ]
    embeddings = clip.text_model.embeddings
    prompts = torch.stack(rows) + embeddings.position_embedding.weight
    handle = embeddings.register_forward_hook(lambda *_: prompts)
    logits = clip(input_ids=ids, pixel_values=pixel_values).logits_per_image
    handle.remove()
    return logits


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("class_specific", [False, True])
def test_numbers_of_the_files_own_prompts(checkpoint, convert, tokenizer, pixel_values, clip, position, class_specific):
    names = ["cat", "kite (bird of prey)", "Boeing 737-200"]
    path, tensors = checkpoint(names, n_ctx=5, class_specific=class_specific)
    model = convert(path, class_token_position=position)
    lengths = [len(tokenizer(name)["input_ids"]) - 2 for name in names]
    _, ids = frozen_parts(clip, tokenizer, names, 5)
    with torch.no_grad():
        expected = original_logits(clip, tensors, ids, lengths, position, pixel_values)
        torch.testing.assert_close(model(pixel_values=pixel_values).logits, expected, atol=1e-4, rtol=0)


def test_class_names_come_back(checkpoint, tokenizer):
    path, _ = checkpoint(list(NAMES))
    recovered = recover_class_names(read_original(path), make_clip(), PromptTokenizer(tokenizer))
    assert recovered == list(NAMES.values())


def test_half_precision_of_several_gpus(checkpoint, write, convert):
    _, tensors = checkpoint(list(NAMES), class_specific=True)
    path = write({f"module.{key}" if key == "ctx" else key: value.half() for key, value in tensors.items()} | tensors)
    assert read_original(path).ctx.dtype == torch.float32
    model = convert(path)
    assert model.class_names == list(NAMES.values())


@pytest.mark.parametrize("number", [1, 64])
def test_what_is_read(checkpoint, number):
    path, tensors = checkpoint(["cat"] * number, n_ctx=3, meta_net=True)
    read = read_original(path)
    assert (read.n_ctx, read.class_specific, read.epoch, read.path) == (3, False, 50, path)
    assert torch.equal(read.ctx, tensors["ctx"])
    assert set(read.meta_net) == {key for key in tensors if key.startswith("meta_net.")}


def test_folder(checkpoint, convert, tmp_path, tokenizer_path):
    clip = make_clip()
    weights = {key: value.clone() for key, value in clip.state_dict().items()}
    path, _ = checkpoint(meta_net=True)
    config = convert_original(path, clip, tmp_path / "adapter", tokenizer_name_or_path=tokenizer_path)
    assert (config.n_ctx, config.meta_net, config.meta_net_reduction) == (4, True, 20)
    files = {file.name for file in (tmp_path / "adapter").iterdir()}
    assert files == {"adapter_config.json", "adapter_model.safetensors", "README.md"}
    saved = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert saved["class_names"] == ["cat", "great white shark"]
    assert all(parameter.requires_grad for parameter in clip.parameters())
    assert not hasattr(clip, "prompt_layer")
    assert all(torch.equal(value, weights[key]) for key, value in clip.state_dict().items())


def test_unified_context_with_other_names(checkpoint, convert):
    path, _ = checkpoint()
    assert convert(path, class_names=["dog", "cat", "rose"]).class_names == ["dog", "cat", "rose"]


@pytest.mark.parametrize("without", ["token_suffix", "token_prefix"])
def test_without_frozen_parts(checkpoint, convert, without):
    path, _ = checkpoint(**{without: None})
    assert convert(path, class_names=["dog"]).class_names == ["dog"]


@pytest.mark.parametrize(
    "settings",
    [{"n_ctx": 3}, {"n_ctx": 3, "class_specific_context": True}, {"meta_net": True, "ctx_init": "a photo of a"}],
    ids=["unified", "class-specific", "conditional"],
)
def test_round_trip_is_exact(settings, tokenizer, tokenizer_path, tmp_path, convert, clip):
    names = list(NAMES.values())
    config = CoOpConfig(class_names=names, tokenizer_name_or_path=tokenizer_path, meta_net_reduction=16, **settings)
    model = get_peft_model(make_clip(), config, adapter_name="pets")
    layer = model.prompt_layer
    with torch.no_grad():
        for name, parameter in layer.named_parameters():
            if "learned_prompts" in name:
                parameter.normal_()
    path = tmp_path / "model.pth.tar-7"
    export_original(model, path, epoch=7)

    plain = torch.load(path, weights_only=True)
    frozen, _ = frozen_parts(clip, tokenizer, names, layer.learned_prompts["pets"].n_ctx)
    assert plain["epoch"] == 7
    assert all(torch.equal(plain["state_dict"][key], value) for key, value in frozen.items())
    again = convert(path)
    assert again.class_names == names
    learned = {key: value for key, value in model.state_dict().items() if "learned_prompts" in key}
    assert learned
    for key, value in learned.items():
        assert torch.equal(again.state_dict()[key.replace("pets", "default")], value), key


def test_export_fits_the_originals_module(tokenizer_path, tmp_path):
    """Loaded as the original loads: without the frozen parts, and not strictly."""
    config = CoOpConfig(class_names=["cat"], meta_net=True, n_ctx=4, tokenizer_name_or_path=tokenizer_path)
    model = get_peft_model(make_clip(), config)
    export_original(model, tmp_path / "model.pth.tar-1")
    module = nn.Module()
    module.ctx = nn.Parameter(torch.empty(4, 24))
    module.meta_net = nn.Sequential()
    module.meta_net.add_module("linear1", nn.Linear(40, 40 // 16))
    module.meta_net.add_module("relu", nn.ReLU())
    module.meta_net.add_module("linear2", nn.Linear(40 // 16, 24))
    state_dict = torch.load(tmp_path / "model.pth.tar-1", weights_only=True)["state_dict"]
    for key in ("token_prefix", "token_suffix"):
        del state_dict[key]
    result = module.load_state_dict(state_dict, strict=False)
    assert not result.missing_keys
    assert not result.unexpected_keys
    assert torch.equal(module.ctx, model.prompt_layer.learned_prompts["default"].ctx)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"class_names": None}, "this adapter has none: call `set_classes`"),
        ({"meta_net": True, "class_specific_context": True}, "CoCoOp cannot have a class-specific context"),
        ({"meta_net": True, "class_token_position": "front"}, "cannot have the class name at the 'front'"),
        ({"meta_net": True, "meta_net_reduction": 8}, "a Meta-Net of 5 hidden units for 40 dimensions"),
    ],
)
def test_what_cannot_be_exported(settings, message, tokenizer_path, tmp_path):
    config = CoOpConfig(**{"class_names": ["cat"], "tokenizer_name_or_path": tokenizer_path, **settings})
    with pytest.raises(ValueError, match=message):
        export_original(get_peft_model(make_clip(), config), tmp_path / "model.pth.tar-1")


@pytest.mark.parametrize("needed", ["a LoRA", "a projection"])
def test_a_prompt_that_needs_more_is_not_exported(needed, tokenizer_path, tmp_path):
    modules = ["visual_projection"] if needed == "a projection" else None
    config = CoOpConfig(class_names=["cat"], tokenizer_name_or_path=tokenizer_path, modules_to_save=modules)
    model = get_peft_model(make_clip(), config)
    if needed == "a LoRA":
        model.add_adapter("style", LoraConfig(target_modules=["q_proj"]))
    with pytest.raises(
        ValueError, match=r"learned with (the LORA 'style'|'visual_projection' of the base model): without"
    ):
        export_original(model, tmp_path / "model.pth.tar-1")
    assert not any(tmp_path.iterdir())


def exportable(tokenizer_path):
    return get_peft_model(make_clip(), CoOpConfig(class_names=["cat"], tokenizer_name_or_path=tokenizer_path))


@pytest.mark.parametrize("name", ["folder", "file/model.pth.tar-1", "x" * 300])
def test_export_to_where_no_file_can_be(name, tokenizer_path, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("text")
    with pytest.raises(OSError, match=re.escape(str(tmp_path / name.partition("/")[0]))) as caught:
        export_original(exportable(tokenizer_path), tmp_path / name)
    assert name != "folder" or str(caught.value).endswith(f"Is a directory: '{tmp_path / name}'")
    assert {path.name for path in tmp_path.rglob("*")} == {"folder", "file"}


def test_export_that_fails_leaves_what_was_there(tokenizer_path, tmp_path, monkeypatch):
    def write_half(path, content):
        with path.open("wb") as file:
            file.write(content[:100])
        raise OSError(28, "No space left on device", str(path))

    path = tmp_path / "model.pth.tar-1"
    path.write_text("an older one")
    monkeypatch.setattr(type(path), "write_bytes", write_half)
    with pytest.raises(OSError, match=r"No space left on device.*model\.pth\.tar-1"):
        export_original(exportable(tokenizer_path), path)
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert path.read_text() == "an older one"


def test_export_needs_a_prompt(tmp_path):
    with pytest.raises(TypeError, match="a learned prompt is needed; got CLIPModel"):
        export_original(make_clip(), tmp_path / "model.pth.tar-1")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"ctx": torch.zeros(4)}, r"`ctx` should be \(vectors, width\), got a tensor of shape \(4,\)"),
        ({"ctx": torch.zeros(4, 32)}, r"`token_prefix` is \(2, 1, 24\).* and width is 32 in `ctx`"),
        ({"ctx": torch.full((4, 24), torch.nan)}, "`ctx` holds numbers that are not finite"),
        ({"ctx": torch.zeros(3, 4, 24)}, r"`token_prefix` is \(2, 1, 24\).* and classes is 3 in `ctx`"),
        ({"ctx": [1.0]}, "`ctx` is no tensor but a list"),
        ({"token_prefix": torch.zeros(2, 2, 24)}, "BOS is 1 in every checkpoint"),
        ({"token_suffix": torch.zeros(2, 24)}, r"`token_suffix` should be \(classes, tokens, width\)"),
        ({"meta_net": True, "meta_net.linear1.bias": None}, r"part of CoCoOp's Meta-Net: meta_net.linear1.bias is"),
        ({"meta_net": True, "meta_net.linear2.bias": torch.zeros(9)}, "and width is 24 in `ctx`"),
        ({"compound_prompts_text.0": torch.zeros(1)}, "another method .* also holds compound_prompts_text.0"),
    ],
)
def test_tensors_that_do_not_fit_together(checkpoint, settings, message):
    path, _ = checkpoint(**settings)
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}.*{message}"):
        read_original(path)


def test_file_of_an_old_torch(checkpoint, tmp_path):
    _, tensors = checkpoint()
    contents = {"state_dict": tensors, "epoch": 50, **state_of_training()}
    torch.save(contents, tmp_path / "model.pth.tar-50", _use_new_zipfile_serialization=False)
    assert torch.equal(read_original(tmp_path / "model.pth.tar-50").ctx, tensors["ctx"])


class Malicious:
    def __reduce__(self):
        return (print, ("this came with the file",))


@pytest.mark.parametrize(
    "contents, message",
    [
        ([1, 2], "has no `state_dict`, it holds list"),
        ({"model": {}}, "has no `state_dict`, it holds model"),
        ({"state_dict": {"linear.weight": torch.zeros(1)}}, "has no `ctx`, it holds linear.weight"),
        ({"state_dict": {}, "optimizer": Malicious()}, "contains print, and loading that could run code"),
    ],
)
def test_files_of_another_kind(tmp_path, contents, message, capsys):
    torch.save(contents, tmp_path / "file")
    with pytest.raises(ValueError, match=message):
        read_original(tmp_path / "file")
    assert not capsys.readouterr().out


@pytest.mark.parametrize("contents", [b"", b"text", pickle.dumps({"state_dict": {}}), b"PK\x03\x04 damaged"])
def test_no_file_of_torch(tmp_path, contents):
    (tmp_path / "file").write_bytes(contents)
    with pytest.raises(ValueError, match="file cannot be read: it was not written by"):
        read_original(tmp_path / "file")


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_original(tmp_path / "nowhere")


def test_nothing_stays_allowed(checkpoint):
    path, _ = checkpoint()
    before = set(torch.serialization.get_safe_globals())
    read_original(path)
    assert set(torch.serialization.get_safe_globals()) == before


def test_plain_loading_refuses_such_files(checkpoint, write):
    """Why `read_original` does more than call `torch.load`: the scheduler's state alone is refused."""
    _, tensors = checkpoint()
    with pytest.raises(pickle.UnpicklingError, match="CosineAnnealingLR"):
        torch.load(write(tensors, val_result=None), weights_only=True)


@pytest.mark.parametrize(
    "given, convert_with, message",
    [
        ({"class_specific": True}, {"class_names": ["cat"]}, "context for 2 classes, got 1 `class_names`"),
        (
            {"class_specific": True},
            {"class_names": ["great white shark", "cat"]},
            "its class 0 is 'cat', not 'great white shark'",
        ),
        ({"token_suffix": None}, {}, "has no `token_suffix` to find the class names in"),
        ({"meta_net": True}, {"class_token_position": "middle"}, "CoCoOp, .* must be 'end', got 'middle'"),
        ({}, {"class_token_position": "back"}, "`class_token_position` must be one of"),
        (
            {"meta_net": True, "meta_net.linear1.weight": torch.zeros(2, 64)},
            {},
            "features of 64 dimensions, and this model's have 40",
        ),
        (
            {
                "meta_net": True,
                "meta_net.linear1.weight": torch.zeros(14, 40),
                "meta_net.linear1.bias": torch.zeros(14),
                "meta_net.linear2.weight": torch.zeros(24, 14),
            },
            {},
            "no `meta_net_reduction` gives 14 hidden units for image features of 40 dimensions",
        ),
    ],
)
def test_what_cannot_be_converted(checkpoint, convert, tmp_path, given, convert_with, message):
    path, _ = checkpoint(**given)
    with pytest.raises(ValueError, match=message):
        convert(path, **convert_with)
    assert not (tmp_path / "adapter").exists()


@pytest.mark.parametrize("class_names", [None, ["dog"]])
def test_another_base_model(checkpoint, convert, class_names):
    path, _ = checkpoint()
    other = make_clip()
    with torch.no_grad():
        other.text_model.embeddings.token_embedding.weight.normal_(std=0.02)
    with pytest.raises(ValueError, match="token 0 of `token_suffix` is not the embedding of any token of this base"):
        convert(path, other, class_names=class_names)


@pytest.mark.parametrize(
    "text, message",
    [
        ({"hidden_size": 32}, "its vectors have 24 dimensions, and the text tower has 32"),
        ({"max_position_embeddings": 40}, "its prompts have 77 tokens .* the text tower reads 40"),
    ],
)
def test_sizes_of_another_base_model(checkpoint, convert, text, message):
    path, _ = checkpoint()
    with pytest.raises(ValueError, match=message):
        convert(path, make_clip(**text))


def test_no_eos(checkpoint, convert, tokenizer):
    frozen, _ = frozen_parts(make_clip(), tokenizer, ["cat", "dog"], 4)
    path, _ = checkpoint(token_suffix=frozen["token_suffix"][:, :1].expand(2, 72, 24))
    with pytest.raises(ValueError, match=r"the prompt of class 0 has no EOS \(49407\)"):
        convert(path)


def test_an_adapter_is_no_base_model(checkpoint, convert):
    path, _ = checkpoint()
    with pytest.raises(TypeError, match="without an adapter, got a PeftModel"):
        convert(path, convert(path))
