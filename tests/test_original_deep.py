"""Checkpoints of MaPLe's own code, which hold the whole model, become adapters with its numbers, and go back."""

import pytest
import torch
from conftest import make_clip
from golden_cases import AFTER_STEPS, LOGITS, golden_case, golden_model
from method_kinds import small_config
from peft import PeftModel, get_peft_model
from test_deep_golden import CASES as PLAIN_CASES
from test_original import frozen_parts

from peft_coop import demo
from peft_coop.cli import main
from peft_coop.hub.original import classes_in_original, convert_original, export_original, read_original

# What lies in the files beside what was learned: the model, here and there a second one, each under its own name.
MODEL = {
    "logit_scale": torch.zeros(()),
    "image_encoder.conv1.weight": torch.zeros(3, 3),
    "image_encoder.transformer.resblocks.1.attn.in_proj_weight": torch.zeros(3, 3),
    "prompt_learner.ZS_image_encoder.conv1.weight": torch.zeros(3, 3),
    "text_encoder.transformer.resblocks.1.ln_1.weight": torch.zeros(3),
}
CASES = [*PLAIN_CASES, *(("promptsrc", f"case{index}") for index in range(2))]
DEEP = ("maple", "ivlp", "vpt", "promptsrc")


def method_of(case) -> str:
    return "vpt" if case.cases.get("trainer") == "VPT" else case.method


def write(path, tensors, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"state_dict": {**MODEL, **tensors, **more}, "epoch": 5}, path)
    return path


def learned_of(case, when):
    start = f"{when}."
    names = [key for key in case.tensors if key.startswith(start) and "logits" not in key]
    return {key.removeprefix(start): case.tensors[key] for key in names}


def words_of(case, names):
    """The texts behind the vectors, without the full stop: of the words, those that no vector stands for."""
    count = case.cases.get("n_ctx", case.cases.get("n_ctx_text"))
    return count, [" ".join([*["a", "photo", "of", "a"][count:], name]) for name in names]


@pytest.mark.parametrize("when", ["init", "final"])
@pytest.mark.parametrize(("golden", "key"), CASES)
def test_golden_numbers(golden, key, when, tokenizer, tokenizer_path, tmp_path):
    case = golden_case(golden, key)
    method, clip, given, more = method_of(case), golden_model(case), {}, {}
    if method == "vpt":
        given = {"class_names": case.class_names}
    else:
        frozen, _ = frozen_parts(clip, tokenizer, words_of(case, case.class_names)[1], words_of(case, [])[0])
        more = {f"prompt_learner.{name}": value for name, value in frozen.items()}
    path = write(tmp_path / "model.pth.tar-5", learned_of(case, when), **more)
    if method != "vpt":
        assert classes_in_original(path, method) == len(case.class_names)
    config = convert_original(
        path, clip, tmp_path / "adapter", method=method, tokenizer_name_or_path=tokenizer_path, **given
    )
    assert config.method == method
    model = PeftModel.from_pretrained(golden_model(case), tmp_path / "adapter").eval()
    with torch.no_grad():
        logits = model(pixel_values=case.all["pixel_values"]).logits
    expected = case.tensors["logits" if when == "init" else "final.logits"]
    torch.testing.assert_close(logits, expected, **(LOGITS if when == "init" else AFTER_STEPS))


@pytest.fixture
def make_adapter(tokenizer_path):
    def make(method, **settings):
        clip = make_clip()
        clip.name_or_path = tokenizer_path
        torch.manual_seed(0)
        return get_peft_model(clip, small_config(method, class_names=["cat", "big red dog"], **settings)).eval()

    return make


@pytest.mark.parametrize(("method", "settings"), [*((key, {}) for key in DEEP), ("ivlp", {"n_ctx_vision": 0})])
def test_there_and_back(make_adapter, tmp_path, method, settings):
    model, path = make_adapter(method, **settings), tmp_path / "model.pth.tar-0"
    export_original(model, path)
    written = torch.load(path, weights_only=True)["state_dict"]
    assert not [key for key in written if "learned_prompts" in key or key.startswith(method)]
    clip = make_clip()
    clip.name_or_path = model.get_base_model().name_or_path
    names = {"class_names": ["cat", "big red dog"]} if method == "vpt" else {}
    config = convert_original(path, clip, tmp_path / "adapter", method=method, **names)
    assert config.class_names == ["cat", "big red dog"]
    again = PeftModel.from_pretrained(clip, tmp_path / "adapter")
    expected = dict(model.prompt_layer.prompt.state_dict())
    assert expected.keys() == again.prompt_layer.prompt.state_dict().keys()
    for name, value in again.prompt_layer.prompt.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_the_originals_names(make_adapter, tmp_path):
    prompt, maps = "prompt_learner", ("proj", "compound_prompt_projections.0")
    linear = {f"{prompt}.{name}.{part}" for name in maps for part in ("weight", "bias")}
    texts = {f"{prompt}.{name}" for name in ("ctx", "token_prefix", "token_suffix")}
    layers = {f"{tower}_encoder.transformer.resblocks.1.VPT_shallow" for tower in ("text", "image")}
    expected = {
        "maple": linear | texts | {f"{prompt}.compound_prompts_text.0"},
        "ivlp": layers | texts | {"image_encoder.VPT"},
        "vpt": {"image_encoder.VPT", "image_encoder.transformer.resblocks.1.VPT_shallow"},
    }
    for method, names in expected.items():
        export_original(make_adapter(method), tmp_path / method)
        assert set(torch.load(tmp_path / method, weights_only=True)["state_dict"]) == names


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (
            "maple",
            {"class_template": "{}, a type of pet."},
            r"has '\{\}.' behind 4 vectors, and .* '\{\}, a type",
        ),
        (
            "vpt",
            {"zero_shot_template": "{} here."},
            r"with 'a photo of a \{\}.', and this .* \{\} here.:",
        ),
    ],
)
def test_what_the_originals_cannot_have_is_not_exported(make_adapter, tmp_path, method, settings, message):
    with pytest.raises(ValueError, match=message):
        export_original(make_adapter(method, **settings), tmp_path / "model.pth.tar-0")
    assert not list(tmp_path.iterdir())


def test_files_that_do_not_fit_say_why(tmp_path, tokenizer_path):
    clip, out = make_clip(), tmp_path / "adapter"
    vision = write(tmp_path / "vpt.pth.tar-5", {"image_encoder.VPT": torch.zeros(2, 32)})
    with pytest.raises(ValueError, match="holds a whole model with prompts at its layers: say of which method it is"):
        read_original(vision)
    settings = {"tokenizer_name_or_path": tokenizer_path}
    with pytest.raises(ValueError, match="does not tell its classes: give `class_names`"):
        convert_original(vision, clip, out, method="vpt", **settings)
    with pytest.raises(ValueError, match=r"no checkpoint of MaPLe: it has no prompt_learner.ctx, prompt_learner.proj"):
        convert_original(vision, clip, out, method="maple", **settings)
    with pytest.raises(ValueError, match=r"MaPLe puts the class name at the end: .* got 'front'"):
        convert_original(vision, clip, out, method="maple", class_token_position="front", **settings)
    wide = write(tmp_path / "wide.pth.tar-5", {"image_encoder.VPT": torch.zeros(2, 768)})
    with pytest.raises(ValueError, match=r"2, 768"):
        convert_original(wide, clip, out, method="vpt", class_names=["cat"], **settings)
    broken = write(tmp_path / "broken.pth.tar-5", {"image_encoder.VPT": torch.full((2, 32), torch.nan)})
    with pytest.raises(ValueError, match=r"`image_encoder.VPT` holds numbers that are not finite"):
        convert_original(broken, clip, out, method="vpt", class_names=["cat"], **settings)
    assert not out.exists()


def test_the_command(tmp_path, capsys):
    width = demo.load_clip().config.vision_config.hidden_size
    path = write(tmp_path / "vpt.pth.tar-5", {"image_encoder.VPT": torch.randn(2, width)})
    options = ["--method", "vpt", "--model", "demo", "--class-names", "red", "green", "--output", str(tmp_path / "out")]
    main(["convert", str(path), *options])
    assert "an adapter for demo" in capsys.readouterr().out
    assert PeftModel.from_pretrained(demo.load_clip(), tmp_path / "out").class_names == ["red", "green"]
