"""Checkpoints of KgCoOp's, ProGrad's and TCP's own code become adapters with their numbers, and go back."""

import pytest
import torch
from conftest import make_clip
from golden_cases import AFTER_STEPS, LOGITS, golden_case, golden_model
from peft import PeftModel, get_peft_model
from test_original import frozen_parts

from peft_coop import CoOpConfig, KgCoOpConfig, ProGradConfig, TCPConfig, demo
from peft_coop.cli import main
from peft_coop.hub.original import convert_original, export_original, read_original

# What lies in KgCoOp's files and does nothing.
IDLE = {"bias_vectors": torch.zeros(1, 512), "meta_net.linear1.weight": torch.zeros(128, 512)}
IDLE |= {"meta_net.linear1.bias": torch.zeros(128)}
CONFIGS = {"kgcoop": KgCoOpConfig, "prograd": ProGradConfig}


def write(path, tensors, **more):
    torch.save({"state_dict": {**tensors, **more}, "epoch": 100}, path)
    return path


@pytest.mark.parametrize("when", ["init", "final"])
@pytest.mark.parametrize("key", ["case0", "case1"])
@pytest.mark.parametrize("method", CONFIGS)
def test_golden_numbers(method, key, when, tokenizer, tokenizer_path, tmp_path):
    case = golden_case(method, key)
    clip = golden_model(case)
    ctx = case.tensors[f"{when}.ctx"]
    frozen, _ = frozen_parts(clip, tokenizer, case.class_names, len(ctx))
    path = write(tmp_path / "model.pth.tar-100", {"ctx": ctx, **frozen}, **(IDLE if method == "kgcoop" else {}))
    config = convert_original(path, clip, tmp_path / "adapter", method=method, tokenizer_name_or_path=tokenizer_path)
    assert type(config) is CONFIGS[method]
    model = PeftModel.from_pretrained(golden_model(case), tmp_path / "adapter").eval()
    assert torch.equal(model.prompt_layer.prompt.ctx, ctx)
    with torch.no_grad():
        logits = model(pixel_values=case.all["pixel_values"]).logits
    expected = case.tensors["logits" if when == "init" else "final.logits"]
    torch.testing.assert_close(logits, expected, **(LOGITS if when == "init" else AFTER_STEPS))


@pytest.mark.parametrize("when", ["init", "final"])
@pytest.mark.parametrize(
    "key, template, teacher",
    [
        ("case0", "{}, a type of pet.", "a photo of a {}, a type of pet."),
        ("case1", "person doing {}.", "a photo of a person doing {}."),
    ],
)
def test_tcps_numbers(key, template, teacher, when, tokenizer, tokenizer_path, tmp_path):
    """What stands behind the names is in the file, and says of which dataset, and so of which hand-written prompt."""
    case, settings = golden_case("tcp", key), {"method": "tcp", "tokenizer_name_or_path": tokenizer_path}
    clip, start = golden_model(case), f"{when}."
    learned = {name.removeprefix(start): case.tensors[name] for name in case.tensors if name.startswith(start)}
    learned = {name: value for name, value in learned.items() if "logits" not in name}
    texts = [template.replace("{}", name).removesuffix(".") for name in case.class_names]
    frozen, _ = frozen_parts(clip, tokenizer, texts, 4)
    path = write(tmp_path / "model.pth.tar-50", learned, **frozen)
    with pytest.raises(ValueError, match=r"width is 48 in `ctx`. TCP's files have that: give `method=\"tcp\"`"):
        convert_original(path, clip, tmp_path / "adapter", tokenizer_name_or_path=tokenizer_path)
    config = convert_original(path, clip, tmp_path / "adapter", **settings)
    assert (config.class_template, config.zero_shot_template) == (template, teacher)
    assert config.class_names == [name.lower().replace("_", " ") for name in case.class_names]
    model = PeftModel.from_pretrained(golden_model(case), tmp_path / "adapter").eval()
    with torch.no_grad():
        logits = model(pixel_values=case.all["pixel_values"]).logits
    expected = case.tensors["logits" if when == "init" else "final.logits"]
    torch.testing.assert_close(logits, expected, **(LOGITS if when == "init" else AFTER_STEPS))
    export_original(model, tmp_path / "again")
    written = torch.load(tmp_path / "again", weights_only=True)["state_dict"]
    assert set(written) == {*learned, *frozen}
    assert all(torch.equal(written[name], value) for name, value in {**learned, **frozen}.items())


def test_a_file_of_tcp_with_a_full_stop_alone_does_not_tell_its_hand_written_prompt(
    tokenizer, tokenizer_path, tmp_path
):
    clip = make_clip(num_hidden_layers=9)
    frozen, _ = frozen_parts(clip, tokenizer, ["cat", "great white shark"], 4)
    sizes = {"linear1.weight": (10, 40), "linear1.bias": (10,), "linear2.weight": (96, 10), "linear2.bias": (96,)}
    network = {f"meta_net.{name}": torch.randn(shape) for name, shape in sizes.items()}
    path = write(tmp_path / "model.pth.tar-50", {"ctx": torch.randn(4, 24), **network, **frozen})
    settings = {"method": "tcp", "tokenizer_name_or_path": tokenizer_path}
    with pytest.raises(ValueError, match=r"give `zero_shot_template`, which is 'a centered satellite .* for EuroSAT"):
        convert_original(path, clip, tmp_path / "adapter", **settings)
    config = convert_original(path, clip, tmp_path / "adapter", zero_shot_template="a photo of a {}.", **settings)
    assert (config.class_template, config.class_names) == ("{}.", ["cat", "great white shark"])


def test_kgcoops_file_says_so_where_the_method_is_not_given(tmp_path):
    path = write(tmp_path / "model.pth.tar-1", {"ctx": torch.zeros(4, 24)}, **IDLE)
    with pytest.raises(ValueError, match=r"another method than CoOp .* files do: give `method=.kgcoop.`"):
        read_original(path)
    assert read_original(path, "kgcoop").meta_net is None


def test_a_token_of_the_words_that_stands_before_the_name(tokenizer, tokenizer_path, tmp_path):
    """ "a type of pet, a photo of a" has a token more than words: ProGrad's file has "a" in `token_suffix`."""
    clip, names = make_clip(), ["cat", "great white shark"]
    frozen, _ = frozen_parts(clip, tokenizer, [f"a {name}" for name in names], 16)
    path = write(tmp_path / "model.pth.tar-100", {"ctx": torch.randn(16, 24), **frozen})
    settings = {"method": "prograd", "tokenizer_name_or_path": tokenizer_path}
    config = convert_original(path, clip, tmp_path / "adapter", class_template="a {}.", **settings)
    assert (config.class_names, config.class_template) == (names, "a {}.")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"method": "mable"}, r"`method` must be one of \('coop', 'cocoop', 'kgcoop', 'prograd', .*\), .* got 'mable'"),
        ({"method": "cocoop"}, "is not of CoCoOp: it has no Meta-Net"),
        ({"method": "kgcoop", "class_token_position": "front"}, "KgCoOp cannot have the class name at the 'front'"),
        ({"method": "prograd", "class_token_position": "middle"}, "ProGrad cannot have .* it has 'end' and 'front'"),
    ],
)
def test_what_no_such_file_can_be(settings, message, tmp_path, tokenizer_path):
    path = write(tmp_path / "model.pth.tar-1", {"ctx": torch.zeros(4, 24)})
    given = {"class_names": ["cat"], "tokenizer_name_or_path": tokenizer_path, **settings}
    with pytest.raises(ValueError, match=message):
        convert_original(path, make_clip(), tmp_path / "adapter", **given)


@pytest.mark.parametrize(
    "config_class, settings, message",
    [
        (CoOpConfig, {"class_template": "a {}."}, r"The original's CoOp cannot have 'a {}\.' behind the context"),
        (KgCoOpConfig, {"class_template": "a {}."}, r"The original's KgCoOp cannot have 'a {}\.' behind the context"),
        (KgCoOpConfig, {"class_token_position": "front"}, "KgCoOp cannot have the class name at the 'front'"),
        (ProGradConfig, {"class_token_position": "middle"}, "ProGrad cannot have the class name at the 'middle'"),
        (TCPConfig, {"replaced_layer": 1}, "TCP cannot have vectors of the classes before layer 1"),
        (TCPConfig, {"replaced_layer": 1, "class_template": "the {}."}, "TCP cannot have 'the {}.' behind the context"),
    ],
)
def test_what_cannot_be_exported(config_class, settings, message, tmp_path, tokenizer_path):
    config = config_class(class_names=["cat"], tokenizer_name_or_path=tokenizer_path, **settings)
    with pytest.raises(ValueError, match=message):
        export_original(get_peft_model(make_clip(), config), tmp_path / "model.pth.tar-1")
    assert not (tmp_path / "model.pth.tar-1").exists()


@pytest.mark.parametrize("method", CONFIGS)
def test_the_command(method, tmp_path):
    model = get_peft_model(demo.load_clip(), CONFIGS[method](class_names=["circle", "square"]))
    export_original(model, tmp_path / "model.pth.tar-1")
    output = tmp_path / "adapter"
    arguments = ["--method", method, "--model", "demo", "--output", str(output), "--quiet"]
    assert main(["convert", str(tmp_path / "model.pth.tar-1"), *arguments]) == 0
    again = PeftModel.from_pretrained(demo.load_clip(), output)
    assert type(again.peft_config["default"]) is CONFIGS[method]
    assert torch.equal(again.prompt_layer.prompt.ctx, model.prompt_layer.prompt.ctx)
