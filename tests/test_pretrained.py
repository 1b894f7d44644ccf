"""Models by name: what a name may be, and where the model goes."""

import pytest
import torch

from peft_coop.demo import MODEL_PATH
from peft_coop.evaluation import FrozenCLIP
from peft_coop.evaluation.pretrained import find_device, find_model, load_dual_encoder


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A folder "tiny" in the working directory."""
    (tmp_path / "tiny").symlink_to(MODEL_PATH)
    monkeypatch.chdir(tmp_path)
    return str(tmp_path / "tiny")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("./nosuch", "There is no folder './nosuch'. The model must be the Hub name of a CLIP, such as openai/"),
        ("/no/where", "There is no folder '/no/where'"),
        ("~/no/such/model", "There is no folder '~/no/such/model'"),
        ("", "There is no folder ''"),
        ("empty", "The folder 'empty' holds no model: there is no config.json in it"),
        (
            "file",
            "The model must be the Hub name of a CLIP, .* a folder that holds one, or 'demo', got the file 'file'",
        ),
    ],
)
def test_a_name_that_can_be_no_model(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=f"^{message}"):
        find_model(name)


@pytest.mark.parametrize("name", ["nosuch", "me/nosuch"])
def test_a_name_that_is_not_on_the_hub(name):
    message = (
        rf"^The model '{name}' cannot be loaded \(there is no folder of this name, so it was looked for on the Hub\)"
    )
    with pytest.raises(OSError, match=message):
        load_dual_encoder(name)


def test_a_relative_folder_is_known_by_its_whole_path(tiny):
    for name in ("tiny", "./tiny/"):
        clip = FrozenCLIP.from_pretrained(name)
        assert clip.model.name_or_path == tiny
        assert clip.name == name


def test_device_and_dtype(tiny):
    model, _ = load_dual_encoder(tiny, "cpu", "bfloat16")
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert load_dual_encoder("demo")[0].dtype == torch.float32
    with pytest.raises(ValueError, match=r"`dtype` must be one of \('float32', 'bfloat16', 'float16'\), got 'int8'"):
        load_dual_encoder(tiny, dtype="int8")


@pytest.mark.parametrize("name", ["gpu", "meta", "cpu:x", "mtia"])
def test_no_such_device(name):
    with pytest.raises(ValueError, match=f"one that torch can use here, such as cpu, got '{name}'"):
        find_device(name)
