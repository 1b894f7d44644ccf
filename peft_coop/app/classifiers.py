"""A model that all visitors share: each call brings its own classes, and changes nothing."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel, get_peft_model
from PIL.Image import Image as Picture
from torch import Tensor

from ..data.preparation import prepare_inputs
from ..evaluation import FrozenCLIP, nearest_words
from ..evaluation.interpretation import ContextWords
from ..evaluation.several_labels import LEAST
from ..methods import DEFAULT_METHOD, METHODS
from ..models import OTHER, answers_other, decided_logits

# Adapters are switched off for a whole model while zero-shot CLIP answers, so that calls come one after the other.
_one_call = threading.RLock()


@dataclass(frozen=True)
class Row:
    """A class in an answer.

    Attributes:
        label: its name.
        learned: probability with the learned prompt; None where there is none, or it has no such class.
        zero_shot: that of zero-shot CLIP; None for what it has no class for.
    """

    label: str
    learned: float | None
    zero_shot: float | None


@dataclass(frozen=True)
class Answer:
    """What one picture is taken for.

    Attributes:
        rows: the classes, the likeliest first; "other" among them where it has a probability.
        labels: the answer: the likeliest class, or "other"; where an image has any number of classes, all that are
            likely enough, the likeliest first.
        notes: what a visitor should know of these numbers.
    """

    rows: list[Row]
    labels: list[str]
    notes: list[str]


class SharedClassifier:
    """A prompt, or zero-shot CLIP, that answers several visitors in turn, each with classes of their own.

    Args:
        title: for the page.
        model: with one prompt; for zero-shot CLIP with any that is disabled.
        clip: whose processor the pictures are prepared by.
        is_learned: whether there is a learned prompt.
        class_names: what the page starts with; None: the adapter's classes.
    """

    def __init__(
        self,
        title: str,
        model: PeftModel,
        clip: FrozenCLIP,
        is_learned: bool = True,
        class_names: Sequence[str] | None = None,
    ):
        self.title = title
        self.model = model.eval()
        self.clip = clip
        self.is_learned = is_learned
        self.class_names = list(model.class_names or []) if class_names is None else list(class_names)

    def answer(self, picture: Picture, class_names: Sequence[str]) -> Answer:
        """Classify one picture into any classes; those of the adapter stay what they are.

        Args:
            picture: in RGB.
            class_names: C names.

        Raises:
            ValueError: if the prompt can have no such classes, or a probability is no number.
        """
        names = list(class_names)
        inputs = {
            name: each.to(self.clip.device)
            for name, each in prepare_inputs([picture], self.clip.processor.image_processor).items()
        }
        with _one_call, torch.no_grad():
            decision, notes = self._decision(names)
            notes = [*self._unknown_words(names), *notes]
            several = self.is_learned and self.model.get_base_model().judges_each_class
            learned = self._learned(inputs, names, decision) if self.is_learned else None
            with self.model.disable_adapter():
                zero_shot = decided_logits(self.model(**inputs, class_names=names).logits, len(names)).softmax(-1)[0]
        for row in (zero_shot,) if learned is None else (zero_shot, learned):
            if not bool(row.isfinite().all()):
                raise ValueError("The model's probabilities are no numbers: the adapter or CLIP has broken weights.")
        if several:
            notes.append("An image may have any number of these classes; zero-shot CLIP takes it for one of them.")
        return _answer(names, learned, zero_shot, decision["min_probability"], several, notes)

    def nearest_words(self, top_k: int, whole_words: bool) -> list[ContextWords]:
        """The words nearest to what was learned, see `peft_coop.evaluation.nearest_words`.

        Raises:
            ValueError: if nothing was learned, or nothing among words.
        """
        if not self.is_learned:
            raise ValueError("Zero-shot CLIP has learned nothing: choose a prompt, or learn one.")
        with _one_call:
            return nearest_words(self.model, top_k, whole_words)

    def _learned(self, inputs: dict[str, Tensor], names: list[str], decision: dict[str, Any]) -> Tensor:
        """Probabilities `[C]`, or `[C + 1]` with "other" last, as `peft-coop predict` has them."""
        logits = self.model(**inputs, class_names=[*names, *(decision["other_names"] or [])]).logits
        scores = decided_logits(logits, len(names), decision["calibration_temperature"])
        return (scores.sigmoid() if self.model.get_base_model().judges_each_class else scores.softmax(-1))[0]

    def _unknown_words(self, names: list[str]) -> list[str]:
        """What is to be told of names that the tokenizer does not know, which all read alike to the model."""
        tokenizer = self.clip.processor.tokenizer
        ids = tokenizer(names, add_special_tokens=False).input_ids
        unknown = [name for name, own in zip(names, ids, strict=True) if tokenizer.unk_token_id in own]
        return [f"This model does not know words of: {', '.join(unknown)}."] if unknown else []

    def _decision(self, names: list[str]) -> tuple[dict[str, Any], list[str]]:
        """What the adapter decides by, which belongs to its own classes in any order; and what is to be told."""
        decision = self.model.get_base_model().decision
        chosen = [name for name, value in decision.items() if value is not None] if self.is_learned else []
        if not chosen or sorted(names) == sorted(self.model.class_names or []):
            return decision, _notes_of(decision, self.model.get_base_model().judges_each_class) if chosen else []
        told = ", ".join(name.replace("_", " ") for name in chosen)
        return dict.fromkeys(decision), [f"Not used for other classes than the prompt's own: {told}."]


def start_without_prompt(clip: FrozenCLIP, class_names: Sequence[str]) -> SharedClassifier:
    """Zero-shot CLIP by itself.

    Args:
        clip: stays as it is.
        class_names: what the page starts with; may be none.
    """
    # Every method of a task is the same zero-shot classifier while it is disabled.
    config = METHODS[DEFAULT_METHOD].config(class_names=list(class_names) or ["anything"], n_ctx=1)
    model = get_peft_model(deepcopy(clip.model), config)
    return SharedClassifier("Zero-shot CLIP", model, clip, is_learned=False, class_names=class_names)


def _notes_of(decision: dict[str, Any], several: bool) -> list[str]:
    notes = []
    if decision["calibration_temperature"] is not None:
        notes.append(f"Probabilities are calibrated, at temperature {decision['calibration_temperature']:.3g}.")
    if decision["min_probability"] is not None:
        least = f"{decision['min_probability']:.1%}"
        notes.append(
            f"Classes are answered from {least} on." if several else f"Where no class has {least}, it is “{OTHER}”."
        )
    if decision["other_names"]:
        notes.append(f"“{OTHER}” stands for: {', '.join(decision['other_names'])}.")
    return notes


def _answer(
    names: list[str],
    learned: Tensor | None,
    zero_shot: Tensor,
    min_probability: float | None,
    several: bool,
    notes: list[str],
) -> Answer:
    count = len(names)
    decides = (zero_shot if learned is None else learned).tolist()
    rows = [
        Row(name, None if learned is None else share, of_zero_shot)
        for name, share, of_zero_shot in zip(names, decides[:count], zero_shot.tolist(), strict=True)
    ]
    if len(decides) > count:
        rows.append(Row(OTHER, decides[count], None))
    rows.sort(key=lambda row: -((row.zero_shot if row.learned is None else row.learned) or 0.0))
    likeliest = [row for row in rows if row.zero_shot is not None]
    labels = [likeliest[0].label]
    if several:
        least = LEAST if min_probability is None else min_probability
        labels = [row.label for row in likeliest if (row.learned or 0.0) >= least]
    elif bool(answers_other(torch.tensor(decides), count, min_probability)):
        labels = [OTHER]
    return Answer(rows, labels, notes)
