"""The table of docs/capabilities.md: each of its cells is tried, for every entry of METHODS."""

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from conftest import make_clip
from method_kinds import SHALLOW, traits
from peft import LoraConfig, PeftModel, get_peft_model
from task_inputs import IGNORED, as_given, labels_as_given
from test_distributed import METHODS as IN_TWO_PROCESSES
from test_trainer import COMPILED
from torch import Tensor
from torch.nn.functional import cross_entropy, interpolate

from peft_coop.hub import convert_original, export_original
from peft_coop.methods import METHODS
from peft_coop.towers import text_tower

PAGE = Path(__file__).parents[1] / "docs" / "capabilities.md"
NAMES = ["old cat", "old dog", "big ship"]
LABELS = torch.tensor([0, 1, 2, 0])
PIXELS = torch.randn(4, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


class Tried:
    """A method, and what is made of it to try something.

    Args:
        key: of the method.
        tokenizer_path: a folder with CLIP's tokenizer.
        folder: an empty one.
    """

    def __init__(self, key: str, tokenizer_path: str, folder: Path):
        self.method = METHODS[key]
        self.tokenizer_path = tokenizer_path
        self.folder = folder
        self.text: dict[str, int] = {}  # what its text tower has otherwise than the tiny ones

    def config(self, **settings):
        given = {"class_names": NAMES, "tokenizer_name_or_path": self.tokenizer_path, **settings}
        shallow = {name: value for name, value in SHALLOW.items() if self.has(name) and name != "head"}
        return self.method.config(**{**shallow, **given})

    @property
    def labels(self) -> Tensor:
        return labels_as_given(self.method.key, LABELS, {"pixel_values": PIXELS})

    def has(self, setting: str) -> bool:
        return setting in {each.name for each in fields(self.method.config)}

    def clip(self):
        clip = make_clip(**self.text).double()
        clip.name_or_path = self.tokenizer_path
        return clip

    def model(self, **settings) -> PeftModel:
        """In evaluation mode, its prompt not the one that it began with."""
        return moved(get_peft_model(self.clip(), self.config(**settings)).eval())


def moved(model: PeftModel, seed: int = 3) -> PeftModel:
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.get_base_model().prompt_layer.prompt.parameters():
            weight += torch.randn(weight.shape, generator=random, dtype=weight.dtype) / 3
    return model


def pixels(model) -> dict[str, Tensor]:
    """The images, as the active adapter's task has them."""
    return as_given(model.prompt_layer.prompt.settings.method, {"pixel_values": PIXELS})


def logits(model, **given) -> Tensor:
    with torch.no_grad():
        return model(**{**pixels(model), **given}).logits


def same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one, other, rtol=0, atol=1e-9)


def depends_on_the_image(tried: Tried) -> bool:
    model = tried.model()
    texts = model(**pixels(model)).text_embeds
    return texts.ndim == 3 and not same(texts[0], texts[1])


def further_losses(tried: Tried) -> bool:
    model = tried.model().train()
    outputs = model(**pixels(model), labels=tried.labels)
    logits = outputs.logits
    if logits.ndim == 4:
        logits = interpolate(logits, PIXELS.shape[-2:], mode="bilinear")
    return not same(outputs.loss, cross_entropy(logits, tried.labels, ignore_index=IGNORED))


def a_context_for_each_class(tried: Tried) -> bool:
    if not tried.has("class_specific_context"):
        return False
    model = tried.model(class_specific_context=True)
    ctx = model.get_base_model().prompt_layer.prompt.ctx
    before = logits(model)
    with torch.no_grad():
        ctx[1] += torch.linspace(-1, 1, ctx.shape[-1])
    changed = (logits(model) - before).abs().amax(0) > 1e-3
    return changed.tolist() == [False, True, False]


def other_classes(tried: Tried) -> bool:
    model = tried.model()
    before = logits(model)
    model.set_classes([*NAMES[::-1], "big dog"])
    return same(logits(model)[:, [2, 1, 0]], before)


def names_at_call_time(tried: Tried) -> bool:
    as_given = {"class_template": "{}"} if tried.has("class_template") else {}
    model = tried.model(**as_given, zero_shot_template="{}")
    texts = model.get_base_model().prompt_layer.prompt.reader.tokenizer.framed
    ids = [texts(tokens) for tokens in model.get_base_model().prompt_layer.prompt.reader.encode(NAMES)]
    longest = max(map(len, ids))
    input_ids = torch.tensor([each + each[-1:] * (longest - len(each)) for each in ids])
    with torch.no_grad():
        compared = model(**pixels(model), input_ids=input_ids).logits_per_image
    return same(compared, logits(model))


def several_adapters(tried: Tried) -> bool:
    model = tried.model()
    first = logits(model)
    model.add_adapter("other", tried.config(class_names=NAMES[::-1]))
    model.set_adapter("other")
    moved(model, seed=2)
    second = logits(model)
    model.set_adapter("default")
    return same(logits(model), first) and not same(second[:, [2, 1, 0]], first)


def a_prompt_per_image(tried: Tried) -> bool:
    model = tried.model()
    first = logits(model)
    model.add_adapter("other", tried.config())
    model.set_adapter("other")
    moved(model, seed=2)
    second = logits(model)
    mixed = logits(model, adapter_names=["default", "other", "other", "default"])
    return same(mixed, torch.stack([first[0], second[1], second[2], first[3]]))


def a_lora_beside(tried: Tried) -> bool:
    model = tried.model()
    alone = logits(model)
    model.add_adapter("style", LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    model.double()
    together = logits(model)
    model.delete_adapter("style")
    return not same(together, alone) and same(logits(model), alone)


def modules_trained_with_it(tried: Tried) -> bool:
    trained = {"train_vision": True} if tried.has("train_vision") else {"modules_to_save": ["visual_projection"]}
    model = tried.model(**trained).train()
    model(**pixels(model), labels=tried.labels).loss.backward()
    trained = [name for name, weight in model.named_parameters() if weight.grad is not None]
    return any("visual_projection" in name for name in trained) and any("learned_prompts" in name for name in trained)


def features_computed_once(tried: Tried) -> bool:
    model = tried.model()
    with torch.no_grad():
        features = {"image_embeds": model.get_image_features(PIXELS).pooler_output}
        from_features = model(**as_given(tried.method.key, features)).logits
    return same(from_features, logits(model))


def texts_kept_in_evaluation(tried: Tried) -> bool:
    model = tried.model()
    tower = type(text_tower(model.get_base_model()))
    counts, results = [], []
    for _ in range(2):
        with patch.object(tower, "encode", autospec=True, side_effect=tower.encode) as encode:
            results.append(logits(model))
        counts.append(encode.call_count)
    assert same(*results)
    assert counts[0] > 0
    return counts[1] == 0


def compiled(tried: Tried) -> bool:
    """See `test_compiled_training_step`, which takes seconds for each."""
    return any(traits(tried.method.key) <= traits(key) for key in COMPILED)


def two_processes(tried: Tried) -> bool:
    """See `test_two_processes_learn_what_one_learns`."""
    return tried.method.key in IN_TWO_PROCESSES


def from_and_to_the_original(tried: Tried) -> bool:
    more = {}
    if tried.has("replaced_layer"):  # which is a fixed one in the original
        tried.text, more = {"num_hidden_layers": 9}, {"replaced_layer": 8}
    model = tried.model(**more)
    export_original(model, tried.folder / "original.pth.tar")
    given = {"zero_shot_template": "a photo of a {}."}
    if not tried.method.prompt.changes_text:  # no file has names without a vector
        given["class_names"] = NAMES
    convert_original(
        tried.folder / "original.pth.tar", tried.clip(), tried.folder / "converted", method=tried.method.key, **given
    )
    converted = PeftModel.from_pretrained(tried.clip(), tried.folder / "converted").eval()
    assert converted.peft_config["default"].method == tried.method.key
    # The adapter is made in float32, whatever the checkpoint is in: 1e-7 was seen.
    return torch.allclose(logits(converted), logits(model), rtol=0, atol=1e-5)


def merged(tried: Tried) -> bool:
    model = tried.model()
    before = logits(model)
    return same(logits(model.merge_and_unload()), before)


# What the rows of the table say, and what tries them.
CAPABILITIES: dict[str, Callable[[Tried], bool]] = {
    "the vectors depend on the image": depends_on_the_image,
    "the loss has further terms (`loss_parts`)": further_losses,
    "vectors of its own for each class (`class_specific_context`)": a_context_for_each_class,
    "other classes without training (`set_classes`)": other_classes,
    "names given at call time (`input_ids`)": names_at_call_time,
    "several adapters in a model, and switching": several_adapters,
    "a prompt per image (`adapter_names`)": a_prompt_per_image,
    "a LoRA beside it": a_lora_beside,
    "modules trained and saved with it (`modules_to_save`)": modules_trained_with_it,
    "image features computed once (`image_embeds`)": features_computed_once,
    "text features kept in evaluation": texts_kept_in_evaluation,
    "`torch.compile` without a break": compiled,
    "two processes learn what one learns (DDP)": two_processes,
    "from and to the original's checkpoints": from_and_to_the_original,
    "merged into the base weights": merged,
}


def table() -> tuple[list[str], dict[str, list[str]]]:
    """The page's columns, and its cells by row."""
    rows = re.findall(r"^\| (.*) \|$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    head, *cells = [row.split(" | ") for row in rows]
    return head[1:], {first: others for first, *others in cells}


def test_the_table_has_every_method_and_every_row():
    columns, cells = table()
    assert columns == [method.title for method in METHODS.values()]
    assert list(cells) == list(CAPABILITIES)
    assert {len(row) for row in cells.values()} == {len(METHODS)}


@pytest.mark.parametrize("key", METHODS)
@pytest.mark.parametrize("row", CAPABILITIES)
def test_a_cell_says_what_happens(row, key, tokenizer_path, tmp_path):
    """A refusal is a ValueError or a NotImplementedError, and says why."""
    reason = "tried, and it does something else"
    try:
        answer = "yes" if CAPABILITIES[row](Tried(key, tokenizer_path, tmp_path)) else "no"
    except (ValueError, NotImplementedError) as refusal:
        answer, reason = "no", str(refusal)
    columns, cells = table()
    assert answer == cells[row][columns.index(METHODS[key].title)], reason
    assert len(reason) > 30
