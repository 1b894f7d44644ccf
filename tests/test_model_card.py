import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_clip
from huggingface_hub import EvalResult, ModelCard
from method_kinds import small_config
from peft import LoraConfig, PeftModel, get_peft_model
from PIL import Image
from safetensors.torch import load_file
from transformers import CLIPImageProcessor, CLIPTokenizer, Trainer, TrainingArguments

from peft_coop import CoCoOpConfig, CoOpConfig
from peft_coop.hub import model_card
from peft_coop.hub.card_sections import introduction
from peft_coop.hub.model_card import BEGIN, END
from peft_coop.models.base_model_names import is_hub_id

BASE = "tiny/clip"
# PEFT asks the Hub for the base model's config on each save, and is offline here.
pytestmark = pytest.mark.filterwarnings("ignore:Could not find a config file in")


def make_model(tokenizer_path, name=BASE, **settings):
    clip = make_clip()
    clip.name_or_path = clip.config.name_or_path = name
    settings = {"class_names": ["cat", "dog"], "tokenizer_name_or_path": tokenizer_path, **settings}
    return get_peft_model(clip, CoOpConfig(**settings))


@pytest.fixture
def model(tokenizer_path):
    return make_model(tokenizer_path, n_ctx=4)


def card_in(folder: Path) -> ModelCard:
    return ModelCard.load(folder / "README.md")


def snippet_of(card: ModelCard) -> str:
    """All code of the card, one block after the other."""
    return "\n".join(re.findall(r"```python\r?\n(.*?)```", card.text, flags=re.DOTALL))


def values(card: ModelCard) -> dict:
    return {result.metric_type: result.metric_value for result in card.data.eval_results or []}


@pytest.mark.parametrize(
    "key, settings, learned",
    [
        ("maple", {}, "4 learned vectors at each of many layers, mapped .* words and among an image's tokens;"),
        ("ivlp", {}, "4 learned vectors at each of many layers, 2 .* words and among an image's tokens;"),
        ("ivlp", {"n_ctx_vision": 0}, "4 learned vectors at each of many layers, 2 .* its words;"),
        ("vpt", {}, "8 learned vectors at each of many layers, 2 .* stand among an image's tokens;"),
        ("tcp", {}, "4 learned vectors and a network .* stand where a hand-written prompt has its words;"),
    ],
)
def test_it_says_where_the_vectors_stand(key, settings, learned, tokenizer_path):
    config = small_config(key, class_names=["cat", "dog"], tokenizer_name_or_path=tokenizer_path, **settings)
    assert re.search(learned, introduction(get_peft_model(make_clip(), config)))


def test_fresh_card(model, tmp_path):
    model.save_pretrained(tmp_path / "pets")
    card = card_in(tmp_path / "pets")
    assert card.data.to_dict() == {
        "library_name": "peft",
        "base_model": BASE,
        "pipeline_tag": "image-classification",
        "tags": [f"base_model:adapter:{BASE}", "clip", "coop", "peft-coop", "prompt-learning", "transformers"],
    }
    assert card.text.startswith("\n# pets\n")
    assert f"[{BASE}](https://huggingface.co/{BASE})" in card.text
    assert "4 learned vectors, 2 classes" in card.text
    assert "2, in the order of the logits: cat · dog\n" in card.text
    assert "| `n_ctx` | 4 |" in card.text
    assert "| `class_token_position` | 'end' |" in card.text
    assert "| `zero_shot_template` | 'a photo of a {}.' |" in card.text
    assert "eeded]" not in card.text  # PEFT's template: [More Information Needed]
    assert "## Results" not in card.text


@pytest.mark.parametrize(
    "name", ["", "/home/someone/secret/clip", "secret/clip", "../secret", "C:\\secret\\clip", "secret"]
)
def test_the_hub_is_not_told_a_machine_path(tokenizer_path, tmp_path, monkeypatch, name):
    (tmp_path / "secret" / "clip").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    make_model(tokenizer_path, name).create_or_update_model_card(tmp_path / "pets", repo_id="me/pets")
    card = card_in(tmp_path / "pets")
    assert "base_model" not in card.data.to_dict()
    assert not [tag for tag in card.data.tags if tag.startswith("base_model")]
    assert "secret" not in (tmp_path / "pets" / "README.md").read_text()
    assert 'base_model = "path/to/clip"' in snippet_of(card)
    assert tokenizer_path not in str(card)


def test_a_card_that_stays_here_names_the_path_as_peft_does(tokenizer_path, tmp_path):
    model = make_model(tokenizer_path, "/home/someone/clip")
    model.create_or_update_model_card(tmp_path)
    assert card_in(tmp_path).data.base_model == "/home/someone/clip"
    model.create_or_update_model_card(tmp_path, repo_id="me/pets")
    assert "base_model" not in card_in(tmp_path).data.to_dict()


def test_path_that_another_tool_wrote_is_removed(model, tokenizer_path, tmp_path):
    metadata = "base_model: /tmp/clip\ntags:\n- base_model:adapter:/tmp/clip\n- mine"
    (tmp_path / "README.md").write_text(f"---\n{metadata}\n---\n# Mine\n")
    make_model(tokenizer_path, "").create_or_update_model_card(tmp_path)
    assert "base_model" not in card_in(tmp_path).data.to_dict()
    assert "/tmp/clip" not in (tmp_path / "README.md").read_text()
    assert card_in(tmp_path).data.tags[0] == "mine"
    model.create_or_update_model_card(tmp_path)
    assert card_in(tmp_path).data.base_model == BASE


def test_base_model_of_the_user_stays_where_ours_has_no_name(tokenizer_path, tmp_path):
    (tmp_path / "README.md").write_text(
        "---\nbase_model: openai/clip-vit-base-patch16\n---\n# Mine\n", encoding="utf-8"
    )
    make_model(tokenizer_path, "").create_or_update_model_card(tmp_path)
    assert card_in(tmp_path).data.base_model == "openai/clip-vit-base-patch16"


@pytest.mark.parametrize(
    ("name", "expected"),
    [("openai/clip-vit-base-patch16", True), ("gpt2", False), ("a/b/c", False), ("./clip", False), (None, False)],
)
def test_hub_ids(name, expected):
    assert is_hub_id(name) is expected


def test_metrics_as_the_trainer_gives_them(model, tmp_path):
    metrics = {
        "eval_accuracy": np.float32(0.5),
        "eval_loss": torch.tensor(0.25),
        "test_base_accuracy": 0.123456,
        "eval_errors": 3,
        "eval_perplexity": float("inf"),
        "eval_runtime": 1.5,
        "eval_samples_per_second": 10.0,
        "eval_steps_per_second": 2.0,
        "eval_model_preparation_time": 0.1,
        "epoch": 2.0,
    }
    model.create_or_update_model_card(tmp_path, metrics, dataset="me/pets", repo_id="me/pets-coop")
    card = card_in(tmp_path)
    measured = {"accuracy": 0.5, "loss": 0.25, "base_accuracy": 0.123456, "errors": 3, "perplexity": "inf"}
    assert values(card) == measured
    assert card.data.model_name == "pets-coop"
    assert card.data.datasets == ["me/pets"]
    assert "| Accuracy on me/pets | 0.5000 |\n| Loss on me/pets | 0.2500 |" in card.text
    assert "| Test base accuracy on me/pets | 0.1235 |\n| Errors on me/pets | 3 |" in card.text


def test_metrics_stay_until_new_ones_are_given(model, tmp_path):
    model.create_or_update_model_card(tmp_path, {"accuracy": 0.5, "f1": 0.4})
    model.create_or_update_model_card(tmp_path, {"accuracy": 0.6}, dataset="Pets")
    model.save_pretrained(tmp_path)
    card = card_in(tmp_path)
    assert [(result.dataset_name, result.metric_value) for result in card.data.eval_results] == [
        ("unknown", 0.5),
        ("unknown", 0.4),
        ("Pets", 0.6),
    ]
    assert "| Accuracy | 0.5000 |" in card.text
    assert "| Accuracy on Pets | 0.6000 |" in card.text
    model.create_or_update_model_card(tmp_path, {"accuracy": 0.7})
    assert sorted(result.metric_value for result in card_in(tmp_path).data.eval_results) == [0.6, 0.7]


@pytest.mark.parametrize("value", ["high", None, True, [0.5], torch.zeros(2), np.zeros(2)])
def test_metric_that_is_no_number(model, tmp_path, value):
    with pytest.raises(ValueError, match=r"`metrics` must be numbers by name.*for 'accuracy'"):
        model.create_or_update_model_card(tmp_path, {"accuracy": value})
    assert not (tmp_path / "README.md").exists()


def test_words_of_the_user_stay(model, tmp_path):
    model.save_pretrained(tmp_path / "pets")
    path = tmp_path / "pets" / "README.md"
    edited = (
        path.read_text()
        .replace("# pets", "# Cats & dogs\n\nMine: 100 % \\1 \\g<0>.")
        .replace("library_name: peft", "license: mit\nlibrary_name: peft\nmy_own: {a: 1}")
    )
    path.write_text(edited + "\n## Thanks\n\nTo my cat.\n")
    model.set_classes(["lion"])
    model.save_pretrained(tmp_path / "pets")
    model.save_pretrained(tmp_path / "pets")
    card = card_in(tmp_path / "pets")
    above, _, rest = card.text.partition(BEGIN)
    ours, _, below = rest.partition(END)
    assert above == "\n# Cats & dogs\n\nMine: 100 % \\1 \\g<0>.\n\n"
    assert below.strip() == "## Thanks\n\nTo my cat."
    assert "1, in the order of the logits: lion\n" in ours
    assert "dog" not in ours
    assert card.data.license == "mit"
    assert card.data["my_own"] == {"a": 1}


def test_card_without_our_part_keeps_all_of_its_text(model, tmp_path):
    words = "# Mine\n\nThis model was trained from scratch on weekends.\n\n```sh\n## not a heading\n```\n"
    (tmp_path / "README.md").write_text(f"---\ntags:\n- mine\n---\n{words}")
    model.save_pretrained(tmp_path)
    card = card_in(tmp_path)
    assert card.text.startswith(words)
    assert card.data.tags[0] == "mine"
    assert card.text.count(BEGIN) == card.text.count(END) == 1


def test_marker_without_partner_takes_no_words_along(model, tmp_path):
    (tmp_path / "README.md").write_text(f"---\ntags: []\n---\n{BEGIN}\n\nKept words.\n")
    model.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    card = card_in(tmp_path)
    assert "Kept words." in card.text
    assert card.text.count("## How to use it") == 1


def test_windows_line_endings_stay(model, tmp_path):
    (tmp_path / "README.md").write_bytes(b"---\r\ntags:\r\n- mine\r\n---\r\n# Mine\r\n")
    model.save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    content = (tmp_path / "README.md").read_bytes()
    assert content.count(b"\n") == content.count(b"\r\n") > 30
    assert content.count(BEGIN.encode()) == 1


@pytest.mark.parametrize("metadata", ["tags: [", "- a list", "model-index:\n- name: x"])
def test_unreadable_metadata_does_not_cost_the_weights(model, tmp_path, metadata):
    content = f"---\n{metadata}\n---\n# Mine\n"
    (tmp_path / "README.md").write_text(content)
    with pytest.warns(UserWarning, match=r"README.md is left as it is, since its metadata cannot be read"):
        model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == content
    assert (tmp_path / "adapter_model.safetensors").exists()


@pytest.mark.parametrize("error", [OSError("no space left on device"), KeyError("no such key")])
def test_a_card_that_cannot_be_written_does_not_cost_the_weights(model, tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(model_card, "render", fail)
    with pytest.warns(UserWarning, match="No model card was written into .* the adapters are not affected: "):
        model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "adapter_model.safetensors")
    assert {key.rsplit(".", 1)[-1] for key in saved} == {"coop_ctx"}
    assert (tmp_path / "adapter_config.json").exists()


def test_thousand_classes(tokenizer_path, tmp_path):
    names = [f"class number {index}" for index in range(1000)]
    make_model(tokenizer_path, class_names=names).save_pretrained(tmp_path)
    card = card_in(tmp_path)
    assert "The first 50 of 1,000" in card.text
    assert "class number 49 · … and 950 more." in card.text
    assert "class number 50" not in card.text
    assert len(str(card)) < 6000


NASTY = [
    "a | b",
    "`tick`",
    "<b>bold</b>",
    "*star*_under_",
    "snake_case",
    f"{END}",
    "[link](x)",
    "a: b # c",
    "--- \n---",
    "$x$",
]


def test_names_that_mean_something_in_markdown(tokenizer_path, tmp_path):
    model = make_model(tokenizer_path, class_names=NASTY, ctx_init="a | b", zero_shot_template=["| {}", "`{}`"])
    model.save_pretrained(tmp_path)
    before = (tmp_path / "README.md").read_text()
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == before
    assert before.count(END) == 1
    assert r"a \| b · \`tick\` · \<b\>bold\</b\> · \*star\*\_under\_ · snake_case" in before
    rows = [line for line in before.splitlines() if line.startswith("| `")]
    assert {len(re.findall(r"(?<!\\)\|", row)) for row in rows} == {4}
    assert ModelCard(before).data.library_name == "peft"


def test_several_adapters(tokenizer_path, tmp_path):
    model = make_model(tokenizer_path, n_ctx=1)
    config = CoCoOpConfig(class_names=["car", "van", "bus"], tokenizer_name_or_path=tokenizer_path)
    model.add_adapter("traffic", config)
    model.save_pretrained(tmp_path)
    text = card_in(tmp_path).text
    assert "- `default`, in this folder: [CoOp](https://arxiv.org/abs/2109.01134): 1 learned vector, 2 classes" in text
    assert "- `traffic`, in the folder `traffic`: [CoCoOp](https://arxiv.org/abs/2203.05557): 4 learned vectors" in text
    assert "## Classes of `traffic`\n\n3, in the order of the logits: car · van · bus" in text
    assert {"coop", "cocoop"} <= set(card_in(tmp_path).data.tags)
    assert (tmp_path / "traffic" / "adapter_config.json").exists()


def test_class_specific_context_and_no_classes(tokenizer_path, tmp_path):
    make_model(tokenizer_path, class_specific_context=True).save_pretrained(tmp_path / "csc")
    assert "16 learned vectors per class, 2 classes" in card_in(tmp_path / "csc").text
    make_model(tokenizer_path, class_names=None).save_pretrained(tmp_path / "none")
    assert "16 learned vectors, no classes yet" in card_in(tmp_path / "none").text


@pytest.fixture(scope="module")
def base_folder(tokenizer_path, tmp_path_factory) -> Path:
    """A working directory in which the base model lies under the name that it has on the Hub."""
    root = tmp_path_factory.mktemp("work")
    make_clip().save_pretrained(root / BASE)
    CLIPTokenizer.from_pretrained(tokenizer_path).save_pretrained(root / BASE)
    size = {"height": 16, "width": 16}
    CLIPImageProcessor(size=size, crop_size=size).save_pretrained(root / BASE)
    Image.new("L", (30, 40), 200).save(root / "image.jpg")
    return root


@pytest.mark.parametrize("case", ["several", "only-a-named-one", "no-classes"])
def test_snippet_runs_as_printed(tokenizer_path, base_folder, monkeypatch, capsys, case):
    """Nothing is put into the snippet: it runs where folders have the names of the base model and the adapter."""
    model = make_model(tokenizer_path, class_names=None if case == "no-classes" else ["cat", "dog"])
    if case != "no-classes":
        model.add_adapter("traffic", CoOpConfig(class_names=["car", "van"], tokenizer_name_or_path=tokenizer_path))
    if case == "only-a-named-one":
        model.set_adapter("traffic")
        model.delete_adapter("default")
    model.save_pretrained(base_folder / case)
    snippet = snippet_of(card_in(base_folder / case))
    assert f'adapter = "{case}"' in snippet
    monkeypatch.chdir(base_folder)
    names: dict = {}
    exec(snippet, names)
    predicted, active, class_names = {
        "several": (["cat", "dog"], "traffic", ["car", "van"]),
        "only-a-named-one": (["car", "van"], "traffic", ["car", "van"]),
        "no-classes": (["cat", "dog"], "default", ["cat", "dog"]),
    }[case]
    assert capsys.readouterr().out.strip() in predicted
    assert (names["model"].active_adapter, names["model"].class_names) == (active, class_names)


@pytest.mark.filterwarnings("ignore:You are trying to modify a model with PEFT for a second time")
@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute in the model")
@pytest.mark.parametrize("names", [("default", "style"), ("prompt", "default")], ids=["default prompt", "default lora"])
def test_snippet_loads_the_lora_beside_the_prompt(tokenizer_path, base_folder, monkeypatch, capsys, names):
    """The prompt was learned with it, and without it gives other numbers."""
    prompt, lora = names
    lora_config = LoraConfig(target_modules=["q_proj", "visual_projection"], init_lora_weights=False)
    if lora == "default":
        clip = make_clip()
        clip.name_or_path = clip.config.name_or_path = BASE
        settings = {"class_names": ["cat", "dog"], "tokenizer_name_or_path": tokenizer_path}
        model = get_peft_model(get_peft_model(clip, lora_config), CoOpConfig(n_ctx=4, **settings), prompt)
    else:
        model = make_model(tokenizer_path, n_ctx=4)
        model.add_adapter(lora, lora_config)
    assert {config.base_model_name_or_path for config in model.peft_config.values()} == {BASE}
    folder = f"beside-{prompt}"
    model.save_pretrained(base_folder / folder)
    card = card_in(base_folder / folder)
    assert {"coop", "lora"} < set(card.data.tags)
    assert f"- `{lora}`, in {'this folder' if lora == 'default' else 'the folder `style`'}: LORA" in card.text
    assert "the model's own weights are changed by the adapters beside it" in card.text
    monkeypatch.chdir(base_folder)
    ran: dict = {}
    exec(snippet_of(card), ran)
    assert capsys.readouterr().out.strip() in {"cat", "dog"}
    pixel_values = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        expected = model.eval()(pixel_values=pixel_values).logits
        torch.testing.assert_close(ran["model"](pixel_values=pixel_values).logits, expected, atol=1e-4, rtol=0)
        with_prompt_alone = PeftModel.from_pretrained(
            make_clip(), base_folder / folder / ("" if prompt == "default" else prompt)
        )
        assert (with_prompt_alone(pixel_values=pixel_values).logits - expected).abs().max() > 1e-2


def test_trained_modules_are_in_the_card(tokenizer_path, tmp_path):
    make_model(tokenizer_path, n_ctx=4, modules_to_save=["visual_projection"]).save_pretrained(tmp_path)
    assert (
        "of the model's own weights, `visual_projection` were trained, too, and are saved with it"
        in card_in(tmp_path).text
    )


def test_id_on_the_hub_stays_in_the_snippet(model, tmp_path):
    model.create_or_update_model_card(tmp_path, repo_id="me/pets-coop")
    model.save_pretrained(tmp_path)
    assert 'adapter = "me/pets-coop"\n' in snippet_of(card_in(tmp_path))


def train(model, folder, **arguments) -> Trainer:
    images = torch.randn(4, 3, 16, 16)
    data = [{"pixel_values": image, "labels": index % 2} for index, image in enumerate(images)]
    settings = {"max_steps": 2, "eval_strategy": "steps", "eval_steps": 1, "report_to": [], "use_cpu": True}
    trainer = Trainer(
        model,
        TrainingArguments(str(folder), disable_tqdm=True, **settings, **arguments),
        train_dataset=data,
        eval_dataset=data,
        compute_metrics=lambda outputs: {
            "accuracy": float((outputs.predictions.argmax(-1) == outputs.label_ids).mean())
        },
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("name", [BASE, "", "/gone/clip"])
def test_card_of_the_trainer(tokenizer_path, tmp_path, name):
    model = make_model(tokenizer_path, name)
    trainer = train(model, tmp_path / "trained")
    metrics = trainer.evaluate()
    trainer.save_model()
    trainer.create_model_card()
    card = card_in(tmp_path / "trained")
    assert card.data.library_name == "peft"
    assert {"generated_from_trainer", "coop"} <= set(card.data.tags)
    assert f"- Accuracy: {metrics['eval_accuracy']}\n" in card.text
    assert "- training_steps: 2" in card.text
    assert "| Training Loss | Epoch | Step | Validation Loss | Accuracy |" in card.text
    assert card.text.index("- Accuracy:") < card.text.index(BEGIN) < card.text.index("## Model description")
    assert "## Results" not in card.text
    assert set(values(card)) == {"accuracy", "loss"}
    assert values(card)["accuracy"] == metrics["eval_accuracy"]
    assert "trained from scratch" not in card.text
    assert "/gone" not in str(card)
    assert card.data.base_model == (BASE if name else None) or name == "/gone/clip"
    if name == BASE:
        assert f"fine-tuned version of [{BASE}]" in card.text
    else:
        assert "This adapter was trained on an unknown dataset." in card.text
        assert card.data.base_model is None


def test_results_that_the_trainer_filed_itself(model, tmp_path):
    trainer = train(model, tmp_path / "trained")
    trainer.save_model()
    trainer.create_model_card(tasks="image-classification", dataset="Pets", dataset_tags="pets")
    [result] = card_in(tmp_path / "trained").data.eval_results
    assert isinstance(result, EvalResult)
    assert (result.dataset_type, result.metric_type) == ("pets", "accuracy")
    model.create_or_update_model_card(tmp_path / "trained", {"test_accuracy": 0.987}, dataset="Wild pets")
    card = card_in(tmp_path / "trained")
    assert {result.dataset_name for result in card.data.eval_results} == {"Pets", "Wild pets"}
    assert "| Test accuracy on Wild pets | 0.9870 |" in card.text
