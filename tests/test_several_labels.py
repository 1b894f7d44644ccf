"""Images with any number of labels: loss, metrics, tables of labels, draws, and the command line."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import make_clip
from peft import PeftModel, get_peft_model
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score
from tiny_families import FAMILIES as TINY
from transformers import CLIPImageProcessor, Trainer, TrainingArguments, pipeline

from peft_coop import CoOpConfig
from peft_coop.cli.main import main
from peft_coop.data import draw_indices, load_data
from peft_coop.data.several_labels import several_few_shot_indices
from peft_coop.evaluation import several_scores
from peft_coop.methods import METHODS
from peft_coop.methods.base import start_of_sigmoid

NAMES = ["cat", "dog", "bird"]
SEVERAL = "multi_label_classification"
LABELS = [[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]]
IMAGE_METHODS = [key for key, method in METHODS.items() if method.config.task_name == "IMAGE_CLS"]
REFUSED = {"prograd": "a softmax over the classes", "promptsrc": "a softmax over the classes", "csp": "count pairs"}


def make_model(tokenizer_path, key="coop", **fields):
    torch.manual_seed(0)
    config = METHODS[key].config
    fields = {"class_names": NAMES, "problem_type": SEVERAL, "tokenizer_name_or_path": tokenizer_path} | fields
    return get_peft_model(make_clip().double(), config(**fields), autocast_adapter_dtype=False).double()


@pytest.fixture
def pixels():
    return torch.randn(4, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("key", sorted(set(IMAGE_METHODS) - set(REFUSED)))
def test_the_loss_of_every_method_that_can(key, tokenizer_path, pixels):
    model = make_model(tokenizer_path, key, **({"replaced_layer": 1} if key == "tcp" else {}))
    with torch.no_grad():
        outputs = model.eval()(pixel_values=pixels, labels=torch.tensor(LABELS))
    prompt = model.prompt_layer.prompt
    assert (prompt.label_scale.exp().item(), prompt.label_bias.item()) == (pytest.approx(10), -10)
    texts = outputs.text_embeds if outputs.text_embeds.ndim == 3 else outputs.text_embeds.expand(4, -1, -1)
    logits = 10 * torch.einsum("bp,bcp->bc", outputs.image_embeds, texts) - 10
    torch.testing.assert_close(outputs.logits, logits, atol=1e-6, rtol=0)
    expected = F.binary_cross_entropy_with_logits(outputs.logits, torch.tensor(LABELS).double()) * 3
    torch.testing.assert_close(outputs.loss, expected, atol=1e-9, rtol=0)
    trained = model.train()(pixel_values=pixels, labels=torch.tensor(LABELS, dtype=torch.float32))
    trained.loss.backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in (prompt.label_scale, prompt.label_bias))
    assert "sigmoid" in trained.loss_parts


@pytest.mark.parametrize("key, reason", REFUSED.items())
def test_methods_that_need_one_label_say_why(key, reason):
    with pytest.raises(ValueError, match=f"cannot have several labels per image: .*{reason}"):
        METHODS[key].config(problem_type=SEVERAL)


@pytest.mark.parametrize("key", sorted(set(METHODS) - set(IMAGE_METHODS)))
def test_other_tasks_are_refused(key):
    with pytest.raises(ValueError, match="its labels are not those of images"):
        METHODS[key].config(problem_type=SEVERAL)


@pytest.mark.parametrize(
    "labels, error, message",
    [
        ([0, 1, 2, 0], ValueError, r"must be \(4, 3\), a row of 0 and 1 for each image.*shape \(4,\)"),
        ([[1, 0]] * 4, ValueError, r"must be \(4, 3\).*shape \(4, 2\)"),
        ([[1, 0, 2]] * 4, ValueError, "must be 0 or 1 for each class, got 2"),
        ([[1, 0, 0.5]] * 4, ValueError, r"must be 0 or 1 for each class, got 0\.5"),
        ([[1, 0, float("nan")]] * 4, ValueError, "must be 0 or 1 for each class, got nan"),
        ([["cat"]] * 4, TypeError, "must be rows of 0 and 1"),
    ],
)
def test_labels_that_are_no_rows(labels, error, message, tokenizer_path, pixels):
    with pytest.raises(error, match=message):
        make_model(tokenizer_path)(pixel_values=pixels, labels=labels)


def test_wrong_problem_types():
    with pytest.raises(ValueError, match=r"`problem_type` must be .* got 'regression'"):
        CoOpConfig(problem_type="regression")
    with pytest.raises(ValueError, match="`other_names` are for images of one class each"):
        CoOpConfig(problem_type=SEVERAL, other_names=["a texture"])


def test_the_models_own_problem_type(tokenizer_path):
    clip = make_clip()
    clip.config.problem_type = SEVERAL
    model = get_peft_model(clip, CoOpConfig(class_names=NAMES, tokenizer_name_or_path=tokenizer_path))
    assert model.active_peft_config.problem_type == SEVERAL
    assert model.unload().config.problem_type == SEVERAL
    model = make_model(tokenizer_path)
    assert model.config.problem_type == SEVERAL
    model.add_adapter("one", CoOpConfig(class_names=NAMES, tokenizer_name_or_path=tokenizer_path))
    assert model.peft_config["one"].problem_type is None  # what another adapter has published is not the model's own
    model.set_adapter("one")
    assert model.config.problem_type is None
    model.set_adapter("default")
    assert model.unload().config.problem_type is None


def test_it_is_saved_and_loaded(tokenizer_path, pixels, tmp_path):
    model = make_model(tokenizer_path).eval()
    with torch.no_grad():
        model.prompt_layer.prompt.label_bias.fill_(-3.25)
        model.prompt_layer.prompt.label_scale.fill_(1.5)
    expected = model(pixel_values=pixels).logits
    model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(make_clip().double(), tmp_path, autocast_adapter_dtype=False).eval().double()
    torch.testing.assert_close(loaded(pixel_values=pixels).logits, expected, atol=1e-9, rtol=0)
    with loaded.disable_adapter():
        zero_shot = loaded(pixel_values=pixels)
    scale = loaded.get_base_model().logit_scale.exp()
    torch.testing.assert_close(
        zero_shot.logits, scale * zero_shot.image_embeds @ zero_shot.text_embeds.T, atol=1e-9, rtol=0
    )


def test_a_siglip_starts_with_its_own_scale_and_bias():
    siglip = TINY["siglip"].make_model()
    scale, bias = start_of_sigmoid(siglip)
    assert scale.exp().item() == pytest.approx(siglip.logit_scale.exp().item(), abs=1e-5)
    assert bias.item() == pytest.approx(siglip.logit_bias.item(), abs=1e-6)


def test_pipelines_and_probabilities_are_sigmoids(tokenizer_path):
    model = make_model(tokenizer_path).eval()
    processor = CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16})
    classify = pipeline("image-classification", model=model, image_processor=processor, dtype=torch.float64)
    image = Image.new("RGB", (16, 16), "red")
    pixels = {"pixel_values": processor(image, return_tensors="pt")["pixel_values"].double()}
    for temperature in (None, 4.0):
        model.set_decision(temperature)
        expected = (model(**pixels).logits[0] / (temperature or 1)).sigmoid()
        assert {each["label"]: each["score"] for each in classify(image)} == pytest.approx(
            dict(zip(NAMES, expected.tolist(), strict=True)), abs=1e-9
        )
        torch.testing.assert_close(model.probabilities(**pixels)[0], expected, atol=1e-9, rtol=0)


def test_the_trainer_gives_the_gradients_of_the_whole_batch(tokenizer_path, pixels, tmp_path):
    """In two halves as at once: the Trainer counts the entries of the labels."""
    gradients = []
    for size in (4, 2):
        model = make_model(tokenizer_path)
        rows = [
            {"pixel_values": image.numpy(), "labels": np.array(row, dtype=np.float32)}
            for image, row in zip(pixels, LABELS, strict=True)
        ]
        arguments = TrainingArguments(
            tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=4 // size, max_steps=1,
            learning_rate=0.0, max_grad_norm=0.0, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
            optim="sgd", logging_strategy="steps", logging_steps=1,
        )  # fmt: skip
        seen = {}
        count = lambda grad, seen=seen: seen.update(sum=seen.get("sum", 0) + grad)  # noqa: E731
        model.prompt_layer.prompt.label_bias.register_hook(count)
        trainer = Trainer(model, arguments, train_dataset=rows)
        trainer.train()
        gradients.append((seen["sum"].item(), trainer.state.log_history[0]["loss"]))
    assert gradients[0] == pytest.approx(gradients[1], rel=1e-5)
    with torch.no_grad():
        expected = make_model(tokenizer_path).eval()(pixel_values=pixels, labels=LABELS).loss.item()
    assert gradients[0][1] == pytest.approx(expected, rel=1e-4)


def test_the_trainer_smooths_no_rows_of_labels(tokenizer_path, tmp_path):
    """It reads the model's problem type; of rows of 0 and 1 it would make a softmax over the classes."""
    arguments = TrainingArguments(tmp_path, label_smoothing_factor=0.1, report_to=[], use_cpu=True)
    with pytest.warns(UserWarning, match="Label smoothing is not compatible with multi-label classification"):
        assert Trainer(make_model(tokenizer_path), arguments).label_smoother is None


def test_scores_agree_with_scikit_learn_and_name_what_is_left_out():
    generator = np.random.default_rng(0)
    labels = (generator.random((50, 4)) < 0.3).astype(int)
    labels[:, 2] = 0
    logits = generator.normal(size=(50, 4)) + labels
    found = several_scores(logits, labels, ["a", "b", "c", "d"])
    kept = [0, 1, 3]
    expected = average_precision_score(labels[:, kept], logits[:, kept], average="macro")
    assert found["mean_average_precision"] == pytest.approx(expected, abs=1e-12)
    assert found["without_positives"] == ["c"]
    assert found["average_precision"]["c"] is None
    answers = logits[:, kept] > 0
    assert found["f1_macro"] == pytest.approx(f1_score(labels[:, kept], answers, average="macro"))
    assert found["f1_micro"] == pytest.approx(f1_score(labels[:, kept], answers, average="micro"))
    with pytest.raises(ValueError, match="No image has any class"):
        several_scores(logits, 0 * labels, ["a", "b", "c", "d"])
    with pytest.raises(ValueError, match="a column for each of the 2 classes"):
        several_scores(logits, labels, ["a", "b"])


COLOURS = {"red": (200, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 200)}


@pytest.fixture
def folder(tmp_path):
    """Pictures of one or two colours, and a table of them."""
    lines = ["file,labels"]
    for split, count in (("train", 8), ("test", 6)):
        (tmp_path / "data" / split).mkdir(parents=True)
        for index in range(count):
            names = [list(COLOURS)[(index + step) % 3] for step in range(1 + index % 2)]
            picture = Image.new("RGB", (48, 48))
            for place, name in enumerate(names):
                picture.paste(COLOURS[name], (0, place * 48 // len(names), 48, 48))
            picture.save(tmp_path / "data" / split / f"{index}.png")
            lines.append(f"{split}/{index}.png,{';'.join(names)}")
    (tmp_path / "data" / "labels.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "data"


def rewrite(folder, change):
    table = folder / "labels.csv"
    table.write_text(change(table.read_text()))


def test_a_table_of_names(folder):
    data = load_data(f"folder:{folder}")
    assert data.class_names == ["blue", "green", "red"]
    assert (len(data.train), len(data.val), len(data.test)) == (8, 0, 6)
    assert data.train[1]["label"] == [1.0, 1.0, 0.0]
    assert data.summary.splits["train"].images == 8
    assert "train 8 (4 a class)" in data.summary.lines()[0]
    rewrite(folder, lambda text: text.replace(";", "|").replace("file,", "image,"))
    assert load_data(f"folder:{folder}").train["label"][:] == data.train["label"][:]


def test_a_table_with_a_column_for_each_class_and_for_the_split(folder):
    lines = ["file,split,sky,a_sea", "train/0.png,train,1,0", "train/1.png,train,0,true", "test/0.png,val,,1"]
    (folder / "labels.csv").write_text("\n".join([*lines, "test/1.png,test,1,1"]))
    data = load_data(f"folder:{folder}")
    assert data.class_names == ["sky", "a_sea"]
    assert [part["label"][:] for part in (data.train, data.val, data.test)] == [
        [[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0]], [[1.0, 1.0]]
    ]  # fmt: skip


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda text: text.replace("file,", "name,"), "needs a line for each image and a column 'file'"),
        (lambda text: text + "train/9.png,red\n", "Line 16 of .* names 'train/9.png', which is not in"),
        (lambda text: text + "train/0.png,red\n", "Lines 2 and 16 of .* name one image"),
        (lambda text: text + "train/0.png\n", "Line 16 of .* has not as many values"),
        (lambda text: text.replace("file,labels", "file,red"), "must have 0 or 1 for 'red', it has 'red'"),
        (lambda text: text.replace(",red\n", ",Green\n", 1), "'Green' and 'green' in .* read as one class"),
        (lambda text: "file,labels\ntrain/0.png,red\n", "has a single class, \\['red'\\]"),
        (lambda text: text.replace("file,labels", "file,labels,more"), "has not as many values|beside it 'more'"),
    ],
)
def test_tables_that_cannot_be_read(folder, change, message):
    rewrite(folder, change)
    with pytest.raises(ValueError, match=message):
        load_data(f"folder:{folder}")


def test_every_class_is_drawn_often_enough_and_rare_ones_first():
    labels = np.zeros((40, 3), int)
    labels[:, 0] = 1
    labels[:10, 1] = labels[:3, 2] = 1
    data = load_data("demo:colours")
    train, val = draw_indices(data, 4, 1)
    counts = np.array(data.train["label"][:])[train].sum(axis=0)
    assert counts.min() >= 4
    assert counts.max() < 16
    assert draw_indices(data, 4, 1) == (train, val)
    assert draw_indices(data, 4, 2)[0] != train
    drawn, none = several_few_shot_indices(labels.tolist(), [], 5, 0, 4)
    assert labels[drawn].sum(axis=0)[1:].tolist() == [5, 3]
    assert (len(drawn), none) == (5, [])


def run(capsys, *arguments, code=0):
    assert main([str(argument) for argument in arguments]) == code
    return capsys.readouterr()


def test_train_then_evaluate_then_predict(folder, tmp_path, capsys):
    data, prompt = f"folder:{folder}", tmp_path / "prompt"
    short = ["--shots", "2", "--epochs", "2", "--json"]
    trained = json.loads(run(capsys, "train", "--data", data, "--output", prompt, *short).out)
    assert json.loads((prompt / "adapter_config.json").read_text())["problem_type"] == SEVERAL
    measured = json.loads(run(capsys, "evaluate", "--adapter", prompt, "--data", data, "--json").out)
    assert measured["mean_average_precision"] == trained["mean_average_precision"]
    zero_shot = json.loads(run(capsys, "evaluate", "--data", data, "--json").out)
    assert zero_shot["mean_average_precision"] == trained["zero_shot_mean_average_precision"]
    assert "blue" in run(capsys, "evaluate", "--adapter", prompt, "--data", data, "--per-class").out
    asked = ["predict", "--adapter", prompt, folder / "test" / "0.png", "--json"]
    everything = json.loads(run(capsys, *asked, "--min-probability", "0").out)["labels"]
    assert {each["label"] for each in everything} == set(COLOURS)
    middle = everything[1]["probability"]
    some = json.loads(run(capsys, *asked, "--min-probability", str(middle - 1e-6)).out)["labels"]
    assert [each["label"] for each in some] == [each["label"] for each in everything[:2]]
    for command, told in (
        (["train", "--data", data, "--output", tmp_path / "no", "--method", "prograd"], "cannot have several labels"),
        (["evaluate", "--adapter", prompt, "--data", data, "--predictions", tmp_path / "p.csv"], "these have several"),
        ([*asked, "--other-names", "a texture"], "answers with several labels"),
    ):
        assert told in run(capsys, *command, code=2).err
