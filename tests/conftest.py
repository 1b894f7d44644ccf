"""Tiny models, CLIP's tokenizer and the golden numbers. Nothing here touches the network."""

import gc
import json
import os
import tempfile
from collections.abc import Callable
from copy import copy
from functools import cache, lru_cache
from pathlib import Path
from types import SimpleNamespace

# Image features of the tests do not outlive them.
os.environ["HF_DATASETS_CACHE"] = (CACHE := tempfile.TemporaryDirectory()).name
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The models here are too small to share out: threads that wait for each other cost more, also in subprocesses.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import HealthCheck, settings
from model_copies import copies_of
from safetensors.torch import load_file
from slow_tests import mark_slow
from tiny_families import FAMILIES, TinyFamily
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedTokenizerBase,
)

from peft_coop.demo import MODEL_PATH, load_task
from peft_coop.prompts import PromptTokenizer

# The same examples everywhere, however long a machine takes for one.
settings.register_profile(
    "tests", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")

# More workers than these wait for the longest tests.
MOST_WORKERS = 4

# Folders with a tokenizer that no test changes.
UNCHANGED_TOKENIZERS: set[str] = set()

GOLDEN = Path(__file__).parent / "golden"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """How many processes `-n auto` starts: one for each core that this one may use.

    None where that is one core, or one file is asked for: to import everything again takes longer than most files.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    one_file = len(config.args) == 1 and ".py" in config.args[0]
    return 0 if cores == 1 or one_file else min(cores, MOST_WORKERS)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is imported by now stays: no collection need look through it again."""
    gc.collect()
    gc.freeze()


# What takes longest begins first, so that no process waits for a file that another began last.
LONG_FILES = ("test_examples", "test_hub", "test_pages", "test_cli", "test_trainer", "test_contract")
LONG_FILES += ("test_distributed", "test_app_page", "test_whole_graph", "test_compositions", "test_cli_options")

# Files whose tests prepare images with masks.
OF_MASKS = ("test_cli_masks", "test_demo_scenes", "test_dense_clip_adapters", "test_mask_augmentation")
OF_MASKS += ("test_mask_pipeline", "test_mask_trainer", "test_masks", "test_segmentation")


def can_prepare_masks() -> bool:
    """Whether transformers has an image processor for masks here."""
    try:
        from transformers import SegformerImageProcessorPil

        SegformerImageProcessorPil()
    except ImportError:
        return False
    return True


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the slow tests, and put the long files first; within a file the order stays."""
    unknown = mark_slow(items)
    if unknown and config.args == config.getini("testpaths"):
        raise pytest.UsageError(f"There are no such tests as slow_tests.py has: {sorted(unknown)}.")
    if not can_prepare_masks():
        reason = "transformers before 5.22, and there is no later one for Python 3.10, prepares masks with torchvision"
        for item in items:
            if item.path.stem in OF_MASKS or "segmentation.md" in item.name:
                item.add_marker(pytest.mark.skip(reason=reason))
    place = {name: index for index, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


def clip_tokens() -> list[str]:
    """CLIP's vocabulary in the order of its ids: it follows from the merges."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in visible]
    letters = [chr(byte) for byte in visible] + [chr(256 + index) for index in range(len(others))]
    merges = [line for line in (GOLDEN / "merges.txt").read_text(encoding="utf-8").splitlines()[1:] if line]
    words = ["".join(merge.split()) for merge in merges]
    return [*letters, *(f"{letter}</w>" for letter in letters), *words, "<|startoftext|>", "<|endoftext|>"]


@pytest.fixture(scope="session")
def tokenizer_path(tmp_path_factory) -> str:
    """A folder with CLIP's own tokenizer."""
    folder = tmp_path_factory.mktemp("clip-tokenizer")
    vocab = {token: index for index, token in enumerate(clip_tokens())}
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "merges.txt").write_bytes((GOLDEN / "merges.txt").read_bytes())
    saved = folder / "saved"
    CLIPTokenizer.from_pretrained(folder, model_max_length=77).save_pretrained(saved)
    return str(saved)


@pytest.fixture(scope="session")
def tokenizer(tokenizer_path):
    return CLIPTokenizer.from_pretrained(tokenizer_path)


@pytest.fixture(scope="session", autouse=True)
def _tokenizers_are_loaded_once(tokenizer_path, clip_path):
    """Those in folders that no test changes: to load CLIP's takes longer than most tests."""
    UNCHANGED_TOKENIZERS.update({tokenizer_path, clip_path, MODEL_PATH})
    load = PromptTokenizer.from_pretrained
    load_once = cache(load)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            PromptTokenizer,
            "from_pretrained",
            lambda path: load_once(path) if path in UNCHANGED_TOKENIZERS else load(path),
        )
        yield


@pytest.fixture(scope="session")
def family_tokenizer(tmp_path_factory) -> Callable[[TinyFamily], PreTrainedTokenizerBase]:
    """A family's tokenizer, whose `name_or_path` is a folder with it; no test changes it."""

    @cache
    def find(key: str) -> PreTrainedTokenizerBase:
        tokenizer = FAMILIES[key].make_tokenizer(folder := tmp_path_factory.mktemp("tokenizer"))
        tokenizer.name_or_path = str(folder)
        UNCHANGED_TOKENIZERS.add(str(folder))
        return tokenizer

    return lambda family: find(family.key)


@pytest.fixture(scope="session", autouse=True)
def _images_of_the_demo_are_drawn_once():
    """Those that `load_data` reads: to draw them takes longer than most tests."""
    with pytest.MonkeyPatch.context() as patch:
        load_once = cache(load_task)
        patch.setattr("peft_coop.data.sources.load_task", lambda name: copy(load_once(name)))
        yield


@pytest.fixture(scope="session", autouse=True)
def _no_training_collects_garbage():
    """Every Trainer does, when it begins and ends: a tenth of all time, and Python does it by itself."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("accelerate.utils.memory.gc", SimpleNamespace(collect=lambda: 0))
        yield


@pytest.fixture
def figures_are_not_drawn(monkeypatch):
    """A report's files for its figures are empty, for tests that do not look at them."""
    monkeypatch.setattr("peft_coop.evaluation.reports.writing.save_figure", lambda figure, path: Path(path).touch())


# Every width differs, so that a swapped axis cannot pass by luck.
TEXT = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 2, "num_hidden_layers": 2}
VISION = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}
TEXT |= {"vocab_size": 49408, "max_position_embeddings": 77, "bos_token_id": 49406, "eos_token_id": 49407}
VISION |= {"image_size": 16, "patch_size": 8}


def make_clip(kind: str = "clip", **text) -> CLIPModel:
    """A tiny random dual encoder of width 24, 32 and 40 (text, vision, projection); the caller's own."""
    copy_model, random_state = _draw_clip(kind, **text)
    torch.set_rng_state(random_state)
    return copy_model()


@lru_cache(maxsize=4)
def _draw_clip(kind: str, **text) -> tuple[Callable[[], CLIPModel], torch.Tensor]:
    """Draw one, and what the random numbers go on with."""
    torch.manual_seed(0)
    config_class, model_class = {
        "clip": (CLIPConfig, CLIPModel),
        "metaclip_2": (MetaClip2Config, MetaClip2Model),
    }[kind]
    config = config_class(text_config={**TEXT, **text}, vision_config=VISION, projection_dim=40)
    return copies_of(model_class(config).eval()), torch.get_rng_state()


@pytest.fixture
def clip() -> CLIPModel:
    return make_clip()


@pytest.fixture(scope="session")
def clip_path(tmp_path_factory, tokenizer) -> str:
    """A folder with the tiny CLIP and its tokenizer, as `from_pretrained` wants it."""
    folder = tmp_path_factory.mktemp("clip")
    make_clip().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def optimizer_steps():
    """Counts the steps that optimizers take; one of them can be interrupted, as by Ctrl-C."""
    steps = SimpleNamespace(taken=0, interrupted=None)

    def count(*_):
        if steps.taken + 1 == steps.interrupted:
            steps.interrupted = None
            raise KeyboardInterrupt("in a step")
        steps.taken += 1

    handle = register_optimizer_step_pre_hook(count)
    yield steps
    handle.remove()


@pytest.fixture
def pixel_values() -> torch.Tensor:
    return torch.randn(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="session")
def golden() -> dict:
    """Settings and tensors of the original implementation."""
    return {**json.loads((GOLDEN / "golden.json").read_text()), "tensors": load_file(GOLDEN / "golden.safetensors")}


@pytest.fixture
def golden_clip(golden) -> CLIPModel:
    """The tiny CLIP whose numbers the original implementation computed."""
    tensors = golden["tensors"]
    model = CLIPModel(CLIPConfig(**golden["clip_config"])).eval()
    weights = {key.removeprefix("clip/"): value for key, value in tensors.items() if key.startswith("clip/")}
    result = model.load_state_dict(weights, strict=False)
    assert not result.unexpected_keys
    assert set(result.missing_keys) <= {"text_model.embeddings.token_embedding.weight"}
    with torch.no_grad():
        model.text_model.embeddings.token_embedding.weight[tensors["token_ids"]] = tensors["token_embedding_rows"]
    return model
