"""Push and load with the real `huggingface_hub` client, against the Hub of `hub_server.py`.

The client reads its settings when it is imported, and the tests' own process has it offline: so the client here is a
process of its own, and runs one script after the other. The base model comes from that Hub as well.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import make_clip
from hub_server import HubServer
from huggingface_hub import ModelCard
from peft import get_peft_model
from PIL import Image
from transformers import CLIPImageProcessor, CLIPTokenizer

from peft_coop import CoOpConfig

BASE = "tiny/clip"
CLASS_NAMES = ["cat", "dog", "kite (bird of prey)"]

# Runs each script that comes in as a line of JSON; it finds these names and leaves its answer in `result`.
CLIENT = f"""
import json, os, sys, traceback, urllib.request
import torch
from peft import PeftModel, get_peft_model
from transformers import CLIPModel, Trainer, TrainingArguments
from peft_coop import AutoPeftModelForImageClassification, CoOpConfig
from method_kinds import small_config
from task_inputs import as_given

pixel_values = torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))

def base_model():
    return CLIPModel.from_pretrained("{BASE}")

def learned_model():
    model = get_peft_model(base_model(), CoOpConfig(n_ctx=4, class_names={CLASS_NAMES}))
    torch.manual_seed(2)
    model.get_base_model().text_model.embeddings.learned_prompts["default"].ctx.data.normal_()
    return model.eval()

def logits(model):
    with torch.no_grad():
        return model(pixel_values=pixel_values).logits.tolist()

def requests():
    return json.load(urllib.request.urlopen(os.environ["HF_ENDPOINT"] + "/requests"))

for line in sys.stdin:
    names = dict(globals())
    try:
        exec(json.loads(line), names)
        answer = {{"result": names["result"]}}
    except Exception:
        answer = {{"error": traceback.format_exc()}}
    print("\\nANSWER", json.dumps(answer), flush=True)
"""


class Client:
    """A user of a Hub, with a cache of their own.

    Args:
        hub: the Hub.
        home: folder of the cache; also where scripts run.
    """

    def __init__(self, hub: HubServer, home: Path):
        self.environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
        self.environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(home), "HF_TOKEN": "hf_dummy"}
        self.environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        self.environment["PYTHONPATH"] = os.pathsep.join(map(str, Path(__file__).parents[:2]))  # the tests', and ours
        self.home = home

    def __enter__(self):
        self.errors = (self.home / "errors.txt").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-c", CLIENT],
            cwd=self.home,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
        )
        return self

    def __exit__(self, *error):
        self.process.communicate()
        self.errors.close()

    def run(self, script: str) -> dict:
        """Run a script and return its `result`."""
        self.process.stdin.write(json.dumps(script) + "\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("ANSWER "):
                answer = json.loads(line.removeprefix("ANSWER "))
                assert "error" not in answer, answer["error"]
                return answer["result"]
        raise AssertionError(f"The client ended: {Path(self.errors.name).read_text()[-4000:]}")


@pytest.fixture(scope="module")
def base_files(tokenizer_path, tmp_path_factory) -> dict[str, bytes]:
    """The files of a tiny base model, as they stand on the Hub."""
    folder = tmp_path_factory.mktemp("base")
    make_clip().save_pretrained(folder)
    CLIPTokenizer.from_pretrained(tokenizer_path).save_pretrained(folder)
    size = {"height": 16, "width": 16}
    CLIPImageProcessor(size=size, crop_size=size).save_pretrained(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def hub(base_files):
    """A Hub that wants weights by git-lfs, as the real one."""
    with HubServer(lfs_suffixes=(".safetensors",)) as server:
        server.put(BASE, base_files)
        yield server


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    with Client(hub, tmp_path_factory.mktemp("home")) as client:
        yield client


PUSH = """
model = learned_model()
commit = model.push_to_hub("me/coop-test", metrics={"eval_accuracy": 0.75, "eval_loss": 0.5, "eval_runtime": 3.0})
result = {"logits": logits(model), "commit_url": commit.commit_url}
"""


@pytest.fixture(scope="module")
def pushed(client) -> dict:
    return client.run(PUSH)


def card_of(hub: HubServer, repo_id: str, branch: str = "main") -> ModelCard:
    return ModelCard(hub.files(repo_id, branch)["README.md"].decode())


def test_push_is_one_commit_of_three_files(hub, pushed):
    assert set(hub.files("me/coop-test")) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    [commit] = hub.repos["me/coop-test"].commits
    assert commit["summary"] == "Upload adapter"
    assert pushed["commit_url"].startswith(f"{hub.endpoint}/me/coop-test/commit/")
    assert len(hub.files("me/coop-test")["adapter_model.safetensors"]) < 1000
    assert any(request.startswith("PUT /lfs/") for request in hub.requests)


def test_a_handler_is_pushed_on_request(hub, client):
    """Where an endpoint cannot load the base model, nothing is pushed at all."""
    script = """
model = learned_model()
model.push_to_hub("me/with-handler", handler=True)
model.base_model.model.name_or_path = model.peft_config["default"].base_model_name_or_path = "/a/folder"
try:
    model.push_to_hub("me/never", handler=True)
except ValueError as error:
    result = str(error)
"""
    assert "this adapter's was loaded from a folder" in client.run(script)
    assert {"handler.py", "requirements.txt", "adapter_config.json"} <= set(hub.files("me/with-handler"))
    assert b"class EndpointHandler" in hub.files("me/with-handler")["handler.py"]
    assert "me/never" not in hub.repos


# One with tensors in lists, one with a network, and one whose classes are no names; the Hub sees files alone.
@pytest.mark.parametrize("method", ["promptsrc", "tcp", "csp", "video_prompt", "dense_clip"])
def test_methods_go_to_the_hub_and_back(client, method):
    script = f"""
model = get_peft_model(base_model(), small_config("{method}", class_names={CLASS_NAMES}))
torch.manual_seed(2)
for weight in model.get_base_model().prompt_layer.prompt.parameters():
    weight.data.add_(torch.randn(weight.shape) / 3)
model.eval().push_to_hub("me/{method}")
loaded = PeftModel.from_pretrained(base_model(), "me/{method}").eval()
images = as_given("{method}", {{"pixel_values": pixel_values}})
with torch.no_grad():
    every = [each(**images).logits.flatten(1).tolist() for each in (model, loaded)]
result = [model.class_names, loaded.class_names, *every]
"""
    names, names_loaded, expected, loaded = client.run(script)
    assert names_loaded == names
    assert loaded == expected
    assert max(map(max, expected)) - min(map(min, expected)) > 0.1


def test_loaded_adapter_gives_identical_logits(hub, client, pushed):
    script = """
first = logits(PeftModel.from_pretrained(base_model(), "me/coop-test"))
before = len(requests())
second = logits(PeftModel.from_pretrained(base_model(), "me/coop-test"))
again = requests()[before:]
by_its_name = logits(AutoPeftModelForImageClassification.from_pretrained("me/coop-test"))
result = {"first": first, "second": second, "by_its_name": by_its_name, "again": again}
"""
    result = client.run(script)
    assert result["first"] == result["second"] == result["by_its_name"] == pushed["logits"]
    assert "GET /me/coop-test/resolve/main/adapter_model.safetensors" in hub.requests
    assert result["again"]
    assert not [request for request in result["again"] if request.startswith("GET /me/coop-test/resolve")]


def test_a_prompt_is_pushed_and_loaded_with_its_lora(hub, client):
    script = """
from peft import LoraConfig
model = learned_model()
targets = ["q_proj", "visual_projection"]
model.add_adapter("style", LoraConfig(target_modules=targets, init_lora_weights=False))
model.eval().push_to_hub("me/coop-and-lora")
loaded = PeftModel.from_pretrained(base_model(), "me/coop-and-lora")
prompt_alone = logits(loaded)
loaded.load_adapter("me/coop-and-lora", "style", subfolder="style")
from argparse import Namespace
from peft_coop.cli.loading import load_adapter
options = Namespace(model=None, device="cpu", dtype=None, eval_batch_size=None)
by_command, _ = load_adapter("me/coop-and-lora", options)
result = {"pushed": logits(model), "prompt_alone": prompt_alone, "loaded": logits(loaded)}
result["by_command"] = logits(by_command)
"""
    result = client.run(script)
    assert result["loaded"] == result["by_command"] == result["pushed"] != result["prompt_alone"]
    files = {"adapter_config.json", "adapter_model.safetensors"}
    assert set(hub.files("me/coop-and-lora")) == {"README.md", *files, *(f"style/{name}" for name in files)}
    assert len(hub.repos["me/coop-and-lora"].commits) == 1
    assert {"coop", "lora"} < set(card_of(hub, "me/coop-and-lora").data.tags)


def test_card_on_the_hub(hub, pushed):
    card = card_of(hub, "me/coop-test")
    assert card.data.library_name == "peft"
    assert card.data.base_model == BASE
    assert {"coop", f"base_model:adapter:{BASE}"} <= set(card.data.tags)
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == {
        "accuracy": 0.75,
        "loss": 0.5,
    }
    assert card.data.model_name == "coop-test"
    assert card.text.lstrip().startswith("# coop-test\n")
    assert "| Accuracy | 0.7500 |" in card.text
    assert "cat · dog · kite (bird of prey)" in card.text


def test_snippet_of_the_card_runs_as_printed(hub, client, pushed, tmp_path):
    """Nothing is put into the snippet: base model and adapter come from the Hub by the names in the card."""
    [snippet] = re.findall(r"```python\n(.*?)```", card_of(hub, "me/coop-test").text, flags=re.DOTALL)
    assert f'"{BASE}"' in snippet
    assert '"me/coop-test"' in snippet
    Image.new("RGB", (40, 30), "orange").save(tmp_path / "image.jpg")
    script = f"""
import contextlib, io
printed = io.StringIO()
os.chdir({str(tmp_path)!r})
with contextlib.redirect_stdout(printed):
    exec({snippet!r}, {{}})
os.chdir({str(client.home)!r})
result = printed.getvalue()
"""
    assert client.run(script).strip() in CLASS_NAMES


def test_second_push_keeps_the_users_words(hub, client, pushed):
    edited = hub.files("me/coop-test")["README.md"].decode().replace("# coop-test\n", "# My cats\n\nTook all night.\n")
    edited = edited.replace("library_name: peft", "library_name: peft\nlicense: mit") + "\nThanks to my cat.\n"
    hub.put("me/edited", {"README.md": edited.encode()})
    script = """
model = learned_model()
model.set_classes(["lion", "tiger"])
model.push_to_hub("me/edited", tags=["animals"], commit_message="Other cats", commit_description="Larger ones")
model.push_to_hub("me/edited", revision="trial", tags="trial-only")
model.push_to_hub("edited", create_pr=True, commit_message="As a pull request")
model.push_to_hub("me/secret", private=True, max_shard_size="1GB", token="hf_other")
result = {}
"""
    client.run(script)
    card = card_of(hub, "me/edited")
    assert card.text.lstrip().startswith("# My cats\n\nTook all night.\n")
    assert card.text.endswith("\nThanks to my cat.\n")
    assert card.text.count("lion · tiger") == 1
    assert card.text.count("## How to use it") == 1
    assert "kite" not in card.text
    assert card.data.license == "mit"
    assert "animals" in card.data.tags
    assert "trial-only" in card_of(hub, "me/edited", "trial").data.tags
    assert "trial-only" not in card.data.tags
    commits = hub.repos["me/edited"].commits
    assert [commit["branch"] for commit in commits] == ["main", "trial", "refs/pr/1"]
    assert [commit["summary"] for commit in commits] == ["Other cats", "Upload adapter", "As a pull request"]
    assert hub.repos["me/secret"].private
    assert not hub.repos["me/edited"].private


def test_trainer_pushes_and_keeps_its_results(hub, client):
    script = """
model = learned_model()
data = [{"pixel_values": image, "labels": index % 3} for index, image in enumerate(pixel_values)]
arguments = TrainingArguments(
    "trained", num_train_epochs=2, eval_strategy="epoch", save_strategy="epoch", learning_rate=0.1, report_to=[],
    use_cpu=True, push_to_hub=True, hub_model_id="me/trained",
)
def compute_metrics(outputs):
    return {"accuracy": float((outputs.predictions.argmax(-1) == outputs.label_ids).mean())}
trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data, compute_metrics=compute_metrics)
trainer.train()
metrics = trainer.evaluate()
trainer.push_to_hub()
loaded = PeftModel.from_pretrained(base_model(), "me/trained")
result = {"pushed": logits(model.eval()), "loaded": logits(loaded), "metrics": metrics}
"""
    result = client.run(script)
    assert result["loaded"] == result["pushed"]
    card = card_of(hub, "me/trained")
    assert card.data.library_name == "peft"
    assert card.data.base_model == BASE
    assert {"generated_from_trainer", "coop"} <= set(card.data.tags)
    assert "- num_epochs: 2" in card.text
    assert "| Training Loss | Epoch |" in card.text
    assert (
        card.text.index("- Accuracy: ") < card.text.index("## How to use it") < card.text.index("## Model description")
    )
    assert "## Results" not in card.text  # the Trainer has listed them already
    shown = {result.metric_type: result.metric_value for result in card.data.eval_results}
    measured = {name: result["metrics"][f"eval_{name}"] for name in ("accuracy", "loss")}
    assert shown == pytest.approx(measured, abs=6e-5)


def test_push_with_xet_and_files_inline(hub, client, monkeypatch):
    monkeypatch.setattr(hub, "lfs_suffixes", ())
    before = len(hub.requests)
    script = """
from huggingface_hub import constants
assert constants.HF_HUB_DISABLE_XET
constants.HF_HUB_DISABLE_XET = False
try:
    result = learned_model().push_to_hub("me/inline").commit_url
finally:
    constants.HF_HUB_DISABLE_XET = True
"""
    assert client.run(script).startswith(f"{hub.endpoint}/me/inline/commit/")
    assert "adapter_model.safetensors" in hub.files("me/inline")
    assert not [request for request in hub.requests[before:] if "lfs" in request]


def test_wrong_metric_sends_nothing(clip, tokenizer_path):
    model = get_peft_model(clip, CoOpConfig(class_names=["cat"], tokenizer_name_or_path=tokenizer_path))
    with pytest.raises(ValueError, match=r"must be numbers by name.*got 'high' for 'accuracy'"):
        model.push_to_hub("me/coop-test", metrics={"accuracy": "high"})


def test_private_path_stays_on_this_machine(hub, client, base_files, tmp_path):
    folder = tmp_path / "private-clip"
    folder.mkdir()
    for name, content in base_files.items():
        (folder / name).write_bytes(content)
    script = f"""
model = get_peft_model(CLIPModel.from_pretrained({str(folder)!r}), CoOpConfig(class_names=["cat"]))
model.push_to_hub("me/local-base")
result = {{"here": model.peft_config["default"].base_model_name_or_path}}
"""
    result = client.run(script)
    assert result["here"] == str(folder)
    assert set(hub.files("me/local-base")) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    for content in hub.files("me/local-base").values():
        assert b"private-clip" not in content
    assert card_of(hub, "me/local-base").data.base_model is None


def test_sixteen_vectors_for_vit_b_16_are_under_50_kb(tokenizer_path, tmp_path):
    """Of ViT-B/16 only the text width counts, 512; the rest is kept small."""
    clip = make_clip(hidden_size=512, num_attention_heads=8, num_hidden_layers=1, intermediate_size=64)
    model = get_peft_model(clip, CoOpConfig(n_ctx=16, class_names=["cat"], tokenizer_name_or_path=tokenizer_path))
    assert model.get_base_model().text_model.embeddings.learned_prompts["default"].ctx.dtype == torch.float32
    model.save_pretrained(tmp_path)
    size = (tmp_path / "adapter_model.safetensors").stat().st_size
    assert 16 * 512 * 4 < size < 50_000


def test_the_command_line_pushes_a_saved_prompt(hub, client):
    answer = client.run(
        """
from peft_coop.cli import main
learned_model().save_pretrained("saved-prompt")
result = {"code": main(["push", "--adapter", "saved-prompt", "--repo", "me/from-the-command-line"])}
"""
    )
    assert answer["code"] == 0
    files = hub.files("me/from-the-command-line")
    assert set(files) == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert card_of(hub, "me/from-the-command-line").data.base_model == BASE
