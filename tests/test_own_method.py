"""A user's own method, as docs/own-method.md has it: the code of the page is what runs here."""

import importlib
import json
import pickle
import re
import shlex
import sys
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import pytest
import torch
from conftest import make_clip
from forked import run_forked
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING, LoraConfig, PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from safetensors.torch import load_file
from test_plots import legend
from tiny_families import FAMILIES
from torch.nn.functional import cross_entropy
from transformers import CLIPModel, Trainer, TrainingArguments

import peft_coop
from peft_coop import (
    AutoPeftModelForImageClassification,
    CoOpConfig,
    LossTerm,
    Method,
    Prompt,
    PromptConfig,
    register_method,
)
from peft_coop.cli import main
from peft_coop.cli.main import make_parser
from peft_coop.evaluation import load_runs
from peft_coop.evaluation.reports.figures import base_to_new_figure
from peft_coop.methods import METHODS, ContextConfig, find_method

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "own-method.md"
METHOD, *SNIPPETS, COMMAND = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
SHOWN = re.findall(r"^\$ python own_command.py (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
NAMES = ["cat", "dog", "great white shark"]
LABELS = torch.tensor([0, 1, 2, 0, 1])
UNKNOWN = "is of the method RESCOOP, which PEFT does not know: import the package that registers it first"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the user's file lies."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "rescoop.py").write_text(METHOD, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def rescoop(folder):
    """The user's module, imported; forgotten afterwards."""
    sys.path.insert(0, str(folder))
    yield importlib.import_module("rescoop")
    sys.path.remove(str(folder))
    del sys.modules["rescoop"], METHODS["rescoop"], PEFT_TYPE_TO_CONFIG_MAPPING["RESCOOP"]
    for known in (PEFT_TYPE_TO_TUNER_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING):
        del known["RESCOOP"]


@pytest.fixture
def make(rescoop, tokenizer_path):
    """Makes a model in float64 whose adapter is not as it began."""

    def make(**settings):
        settings = {"class_names": NAMES, "tokenizer_name_or_path": tokenizer_path, **settings}
        return perturbed(get_peft_model(make_clip(), rescoop.ResCoOpConfig(**settings)).double().eval())

    return make


def perturbed(model):
    torch.manual_seed(1)
    with torch.no_grad():
        for tensor in model.get_base_model().prompt_layer.prompt.state_dict(keep_vars=True).values():
            tensor += torch.randn_like(tensor) / 10
    return model


def logits(model, pixel_values, **more):
    with torch.no_grad():
        return model(pixel_values=pixel_values.double(), **more).logits


def same(one, other):
    return torch.allclose(one, other, rtol=0, atol=1e-9)


def test_the_page_is_short_and_runs(rescoop, tmp_path, monkeypatch, capsys):
    assert len([line for line in METHOD.splitlines() if line.strip()]) <= 40
    assert len(SNIPPETS) == 5
    monkeypatch.chdir(tmp_path)
    names = {}
    for snippet in SNIPPETS:
        exec(compile(snippet, str(PAGE), "exec"), names)
    printed = capsys.readouterr().out
    assert re.search(r"{'cross_entropy': \d\.\d+, 'anchor': 0\.\d+}", printed)
    assert re.search(r"\| ResCoOp +\| +\d\d\.\d+ \| +\d\d\.\d+ \| +\d\d\.\d+ \| +1 \|", printed)
    assert names["model"].class_names == ["an odd digit", "an even digit"]
    assert names["loaded"].class_names == names["digits"].class_names
    assert len((tmp_path / "base-to-new.png").read_bytes()) > 1000
    runs = load_runs([tmp_path / "runs"])
    own = next(run for run in runs if run.method == "rescoop")
    assert own.settings["hidden_units"] == 4
    assert own.settings["anchor_weight"] == 1.0
    figure = base_to_new_figure(runs)
    assert "ResCoOp" in legend(figure)
    drawn = {patch.get_facecolor()[:3] for axes in figure.axes for patch in axes.patches}
    assert (0xCC / 255, 0x33 / 255, 0x11 / 255) in drawn


def test_the_page_has_everything_that_a_method_answers():
    table = PAGE.read_text(encoding="utf-8").partition("## What a method answers")[2]
    named = set(re.findall(r"`(\w+)[`( ]", table))
    answers = {name for name in vars(Prompt) if not name.startswith("_")} | {one.name for one in fields(Method)}
    assert len(answers) > 30
    assert answers - named == set()


def test_no_file_of_the_package_knows_of_it():
    files = [path for path in Path(peft_coop.__file__).parent.rglob("*") if path.suffix in (".py", ".json")]
    assert len(files) > 100
    assert not [path for path in files if "rescoop" in path.read_text(encoding="utf-8").lower()]


def test_it_is_found_by_its_key(rescoop):
    assert find_method("rescoop") is rescoop.RESCOOP
    assert METHODS["rescoop"].recipe(4).num_epochs == 20


@pytest.mark.parametrize("settings", [{}, {"class_specific_context": True}, {"ctx_init": None, "n_ctx": 3}])
def test_its_arithmetic_and_its_loss(make, pixel_values, settings):
    model = make(anchor_weight=3.0, **settings)
    prompt = model.get_base_model().prompt_layer.prompt
    ctx = prompt.ctx.flatten(0, -2)
    hidden = (ctx @ prompt.down.weight.T + prompt.down.bias).clamp(min=0)
    vectors = ctx + hidden @ prompt.up.weight.T + prompt.up.bias
    distance = ((vectors - prompt.anchor) ** 2).sum() / len(vectors)
    outputs = model.train()(pixel_values=pixel_values.double(), labels=LABELS)
    plain = cross_entropy(outputs.logits, LABELS)
    assert same(outputs.loss, plain + 3 * distance)
    assert {name: part.requires_grad for name, part in outputs.loss_parts.items()} == {
        "cross_entropy": False,
        "anchor": False,
    }
    assert same(outputs.loss_parts["anchor"], distance)
    outputs.loss.backward()
    trained = {name for name, weight in model.named_parameters() if weight.grad is not None and weight.grad.any()}
    names = ("ctx", "down.weight", "down.bias", "up.weight", "up.bias")
    assert {name.rpartition("learned_prompts.default.")[2] for name in trained} == set(names)
    with torch.no_grad():
        evaluated = model.eval()(pixel_values=pixel_values.double(), labels=LABELS)
    assert same(evaluated.loss, plain)


@pytest.mark.parametrize(
    ("terms", "error", "message"),
    [
        ({"far": torch.tensor(1.0)}, TypeError, "must give a `LossTerm` by name, got Tensor for 'far'"),
        (
            {"far": LossTerm(torch.ones(2))},
            ValueError,
            r"The term .far. .* must be a scalar, got shape \(2,\)",
        ),
        ({"cross_entropy": LossTerm(torch.tensor(1.0))}, ValueError, "cannot be called 'cross_entropy'"),
    ],
)
def test_a_loss_that_is_none_is_refused(make, rescoop, monkeypatch, pixel_values, terms, error, message):
    monkeypatch.setattr(rescoop.ResCoOpPrompt, "extra_losses", lambda self, step: terms)
    with pytest.raises(error, match=message):
        make().train()(pixel_values=pixel_values.double(), labels=LABELS)


def test_it_begins_as_the_words(rescoop, tokenizer_path, pixel_values):
    config = {"class_names": NAMES, "tokenizer_name_or_path": tokenizer_path}
    own, coop = rescoop.ResCoOpConfig(**config), CoOpConfig(ctx_init="a photo of a", **config)
    of_own, of_coop = (logits(get_peft_model(make_clip(), each).double().eval(), pixel_values) for each in (own, coop))
    assert same(of_own, of_coop)


@pytest.mark.parametrize("low_cpu_mem_usage", [False, True])
def test_saved_and_loaded(make, pixel_values, tmp_path, low_cpu_mem_usage):
    model = make(ctx_init=None, n_ctx=3, hidden_units=5)
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    names = ("anchor", "ctx", "down.bias", "down.weight", "up.bias", "up.weight")
    assert sorted(saved) == [f"base_model.model.text_model.embeddings.rescoop_{name}" for name in names]
    loaded = PeftModel.from_pretrained(make_clip().double(), tmp_path, low_cpu_mem_usage=low_cpu_mem_usage).eval()
    assert loaded.peft_config["default"].hidden_units == 5
    assert same(logits(loaded, pixel_values), logits(model, pixel_values))
    # What the loss measures from is saved, too: a training that goes on does so from where it began.
    anchors = [each.get_base_model().prompt_layer.prompt.anchor for each in (model, loaded)]
    assert same(*anchors)


@pytest.mark.parametrize("key", ["siglip", "chinese_clip"])
def test_on_a_family_whose_prompts_share_nothing(rescoop, key, tmp_path):
    family = FAMILIES[key]
    family.make_tokenizer(tokenizer := tmp_path / "tokenizer")
    base = family.make_model().double()
    images = {name: each.double() for name, each in family.image_inputs(batch=len(LABELS)).items()}
    config = rescoop.ResCoOpConfig(class_names=NAMES[:2], tokenizer_name_or_path=str(tokenizer))
    model = perturbed(get_peft_model(deepcopy(base), config))
    outputs = model.train()(**images, labels=LABELS.clamp(max=1))
    outputs.loss.backward()
    assert outputs.loss_parts["anchor"] > 0
    assert all(weight.grad.any() for weight in model.parameters() if weight.requires_grad)
    model.eval().save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        assert same(loaded(**images).logits, model(**images).logits)


def test_the_trainer_goes_on_from_a_checkpoint(make, tmp_path):
    images = torch.randn(8, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    data = [{"pixel_values": image, "labels": index % 3} for index, image in enumerate(images)]
    learned = []
    for folder, resume in ((tmp_path, None), (tmp_path, True)):
        model = make()
        settings = {"max_steps": 4, "save_steps": 2, "per_device_train_batch_size": 4, "optim": "sgd"}
        arguments = TrainingArguments(folder, learning_rate=0.1, report_to="none", disable_tqdm=True, **settings)
        checkpoint = str(tmp_path / "checkpoint-2") if resume else None
        Trainer(model, arguments, train_dataset=data).train(resume_from_checkpoint=checkpoint)
        learned.append(model.get_base_model().prompt_layer.prompt.state_dict())
    assert all(same(learned[0][name], value) for name, value in learned[1].items())
    assert not same(learned[0]["ctx"], make().get_base_model().prompt_layer.prompt.ctx)


def test_loaded_by_transformers_own_method(make, pixel_values, tmp_path):
    model = make()
    model.save_pretrained(tmp_path)
    clip = make_clip().double()
    clip.load_adapter(str(tmp_path))
    assert isinstance(clip, CLIPModel)
    assert same(logits(clip.eval(), pixel_values), logits(model, pixel_values))


def test_weights_that_do_not_fit_are_refused(make, tmp_path):
    model = make(hidden_units=4)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"does not fit .*rescoop_down\.weight is \(4, 24\) in the file and \(8, 24\)"):
        make().load_adapter(tmp_path, "default")


@pytest.mark.parametrize("copied", [deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copied_and_pickled(make, pixel_values, copied):
    model = make()
    other = copied(model)
    assert same(logits(other, pixel_values), logits(model, pixel_values))
    perturbed(other)
    assert not same(logits(other, pixel_values), logits(model, pixel_values))


def test_other_classes(make, pixel_values):
    model = make()
    model.set_classes(["dog", "cat"])
    swapped = logits(model, pixel_values)
    model.set_classes(NAMES)
    assert same(logits(model, pixel_values)[:, [1, 0]], swapped)
    with pytest.raises(ValueError, match="class-specific context"):
        make(class_specific_context=True).set_classes(["dog"])


@pytest.mark.parametrize("first", ["rescoop", "coop"])
def test_beside_a_prompt_whose_prefix_is_part_of_its_own(rescoop, tokenizer_path, pixel_values, tmp_path, first):
    configs = {
        "rescoop": rescoop.ResCoOpConfig(class_names=NAMES, tokenizer_name_or_path=tokenizer_path),
        "coop": CoOpConfig(class_names=["a", "b"], n_ctx=3, tokenizer_name_or_path=tokenizer_path),
    }
    second = next(name for name in configs if name != first)
    model = get_peft_model(make_clip(), configs[first], f"{first}-one")
    model.add_adapter(f"{second}-one", configs[second])
    model.double().eval()
    expected = {}
    for name in configs:
        model.set_adapter(f"{name}-one")
        perturbed(model)
        expected[name] = logits(model, pixel_values)
    model.save_pretrained(tmp_path)
    assert len(load_file(tmp_path / "coop-one" / "adapter_model.safetensors")) == 1
    assert len(load_file(tmp_path / "rescoop-one" / "adapter_model.safetensors")) == 6
    loaded = PeftModel.from_pretrained(make_clip().double(), tmp_path / f"{second}-one", f"{second}-one")
    loaded.load_adapter(tmp_path / f"{first}-one", f"{first}-one")
    loaded.eval()
    for name in configs:
        loaded.set_adapter(f"{name}-one")
        assert same(logits(loaded, pixel_values), expected[name])
    assert [n_cls.shape[1] for n_cls in expected.values()] == [3, 2]


def test_beside_a_lora(make, pixel_values, tmp_path):
    model = make()
    alone = logits(model, pixel_values)
    lora = LoraConfig(target_modules=r".*\.(q_proj|v_proj)", init_lora_weights=False)
    model.add_adapter("style", lora)
    model.double().eval()
    both = logits(model, pixel_values)
    assert not same(both, alone)
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_clip().double(), tmp_path)
    loaded.load_adapter(tmp_path / "style", "style")
    assert same(logits(loaded.double().eval(), pixel_values), both)
    model.delete_adapter("style")
    assert same(logits(model, pixel_values), alone)


def test_its_card_says_what_to_import(make, tmp_path):
    make(hidden_units=5).save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "[ResCoOp](https://arxiv.org/abs/2305.03937): 4 learned vectors that pass through a small network" in card
    assert "| `hidden_units` | 5 | Of the network. |" in card
    assert "This needs the package `peft-coop` and the module `rescoop`, which registers the method." in card
    assert "\nimport rescoop  # calls `peft_coop.register_method`\n" in card
    assert "- rescoop\n" in card


def test_the_card_of_a_method_of_the_package_imports_the_package_alone(tokenizer_path, tmp_path):
    config = CoOpConfig(class_names=NAMES, tokenizer_name_or_path=tokenizer_path)
    get_peft_model(make_clip(), config).save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "This needs the package `peft-coop`.\n" in card
    assert re.findall(r"^import (\w+)", card, flags=re.MULTILINE) == ["torch", "peft_coop"]


IN_A_FRESH_PROCESS = """
import sys, torch
from peft import PeftModel
from tiny_families import FAMILIES
from torch.nn.functional import cross_entropy
from transformers import CLIPModel, Trainer, TrainingArguments
import peft_coop
sys.path.insert(0, sys.argv[5])
import rescoop
clip = CLIPModel.from_pretrained(sys.argv[1]).double()
loaded = PeftModel.from_pretrained(clip, sys.argv[2]).eval()
images = torch.load(sys.argv[3])
with torch.no_grad():
    torch.save(loaded(pixel_values=images.double()).logits, sys.argv[4])
"""


def test_in_a_fresh_process(make, folder, clip_path, pixel_values, tmp_path):
    model = make()
    model.save_pretrained(tmp_path / "adapter")
    torch.save(pixel_values, tmp_path / "images.pt")
    paths = [clip_path, tmp_path / "adapter", tmp_path / "images.pt", tmp_path / "logits.pt"]
    (tmp_path / "load.py").write_text(IN_A_FRESH_PROCESS, encoding="utf-8")
    done = run_forked(tmp_path / "load.py", *paths, folder)
    assert done.returncode == 0, done.stderr
    assert same(torch.load(tmp_path / "logits.pt"), logits(model, pixel_values))


def test_an_adapter_of_a_method_that_is_not_imported(make, monkeypatch, tokenizer_path, tmp_path):
    make().save_pretrained(tmp_path)
    with monkeypatch.context() as patch:
        patch.delitem(METHODS, "rescoop")
        patch.delitem(PEFT_TYPE_TO_CONFIG_MAPPING, "RESCOOP")
        for load in (PromptConfig.from_pretrained, AutoPeftModelForImageClassification.from_pretrained):
            with pytest.raises(ValueError, match=UNKNOWN):
                load(str(tmp_path))
        config = CoOpConfig(class_names=NAMES, tokenizer_name_or_path=tokenizer_path)
        model = get_peft_model(make_clip(), config)
        with pytest.raises(ValueError, match=UNKNOWN):
            model.load_adapter(tmp_path, "own")
        assert list(model.peft_config) == ["default"]
    assert isinstance(PromptConfig.from_pretrained(str(tmp_path)), PromptConfig)


def test_the_commands_know_it(folder, rescoop, tmp_path, capsys, monkeypatch):
    assert len(SHOWN) == 2
    for line in SHOWN:  # they are accepted; the first is run
        make_parser().parse_args(shlex.split(line))
    monkeypatch.chdir(tmp_path)
    (folder / "own_command.py").write_text(COMMAND, encoding="utf-8")
    short = "--epochs 1 --device cpu"
    done = run_forked(folder / "own_command.py", *shlex.split(f"{SHOWN[0]} {short}"))
    assert done.returncode == 0, done.stderr
    assert "10 classes, 40 training images, ResCoOp" in done.stdout
    config = json.loads((tmp_path / "my-prompt" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["hidden_units"]) == ("RESCOOP", 4)
    with monkeypatch.context() as patch:
        patch.delitem(METHODS, "rescoop")
        patch.delitem(PEFT_TYPE_TO_CONFIG_MAPPING, "RESCOOP")
        assert main(["evaluate", "--adapter", "my-prompt", "--data", "demo:digits"]) == 2
    assert UNKNOWN in capsys.readouterr().err


def test_registered_twice(rescoop, make, tokenizer_path, tmp_path):
    """As by a notebook's cell that is run again: the class is another one of the same name."""
    make().save_pretrained(tmp_path)
    before = rescoop.ResCoOpConfig
    again = importlib.reload(rescoop)
    assert again.ResCoOpConfig is not before
    assert METHODS["rescoop"].config is again.ResCoOpConfig
    assert type(PromptConfig.from_pretrained(str(tmp_path))) is again.ResCoOpConfig
    config = again.ResCoOpConfig(class_names=NAMES, tokenizer_name_or_path=tokenizer_path)
    model = get_peft_model(make_clip(), config)
    assert type(model.get_base_model().prompt_layer.prompt) is again.ResCoOpPrompt


@dataclass(eq=False)
class OtherConfig(ContextConfig):
    """Settings of no method yet."""

    strength: float = field(default=1.0, metadata={"help": "Of nothing."})

    method = "other"


class NoDataclass(ContextConfig):
    """Its fields would be lost without a word."""

    strength: float = 2.0
    method = "other"


def config_of(method, type_name=None):
    return dataclass(eq=False)(type("OwnConfig", (ContextConfig,), {"method": method, "type_name": type_name}))


def test_a_name_of_its_own_for_peft(rescoop, monkeypatch):
    method = replace(rescoop.RESCOOP, key="other", title="Other", config=config_of("other", "MYTYPE"))
    monkeypatch.setitem(METHODS, "other", method)
    for _ in range(2):
        register_method(method)
        assert PEFT_TYPE_TO_CONFIG_MAPPING[method.config().peft_type] is method.config
        assert method.config().peft_type == "MYTYPE"
        method = replace(method, config=config_of("other", "MYTYPE"))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"key": "lora", "config": config_of("lora")},
            ValueError,
            "PEFT has a method LORA already, with the config peft",
        ),
        (
            {"key": "coop", "config": config_of("coop")},
            ValueError,
            "'coop' is taken by CoOp, whose config is peft_coop",
        ),
        ({"config": config_of("other", "COOP")}, ValueError, "PEFT has a method COOP already.* `type_name` of its own"),
        ({"config": config_of("other", "mytype")}, ValueError, "must be a name in capitals, .*, got 'mytype'"),
        ({"title": "CoOp"}, ValueError, "The title 'CoOp' is taken by the method 'coop'"),
        ({"key": "Other"}, ValueError, "must be a name in small letters, such as 'mycoop', got 'Other'"),
        ({"key": "linear-probe"}, ValueError, "must be a name in small letters.*got 'linear-probe'"),
        ({"key": "another"}, ValueError, r"OtherConfig\.method is 'other', and the key is 'another'"),
        ({"config": CoOpConfig}, ValueError, r"CoOpConfig\.method is not set in it, and the key is 'other'"),
        ({"config": NoDataclass}, TypeError, "must be a class with `@dataclass"),
        ({"config": LoraConfig}, TypeError, "inherits from `PromptConfig`"),
        ({"prompt": torch.nn.Linear}, TypeError, "must be a class that inherits from `Prompt`, got <class"),
    ],
)
def test_what_cannot_be_registered(rescoop, changes, error, message):
    method = replace(rescoop.RESCOOP, **{"key": "other", "title": "Other", "config": OtherConfig, **changes})
    methods, known = dict(METHODS), dict(PEFT_TYPE_TO_CONFIG_MAPPING)
    with pytest.raises(error, match=message):
        register_method(method)
    assert methods == METHODS
    assert known == PEFT_TYPE_TO_CONFIG_MAPPING


def test_a_method_without_a_paper_has_no_link(rescoop):
    assert replace(rescoop.RESCOOP, reference=None).link == "ResCoOp"
