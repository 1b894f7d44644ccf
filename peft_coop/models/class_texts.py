"""The prompts of one list of classes, and the features kept of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..methods import Prompt
from ..towers import PreparedPrompts, TextCache, TextTower, average


class ClassTexts:
    """The prompts of C classes, learned and hand-written.

    Args:
        classes: the classes, as the user gave them: names, unless the method takes something else, too.
        prompt: makes the learned prompts of them.
        tower: reads the prompts.

    Attributes:
        class_names: the C names.
        learned: the C prompts with learnable vectors.
        zero_shot: per hand-written template, the C prompts without.

    Raises:
        TypeError, ValueError: for what is no class, see `Prompt.class_names`, or prompts that are too long.
    """

    def __init__(self, classes: Sequence[Any], prompt: Prompt, tower: TextTower):
        self.class_names = prompt.class_names(classes)
        learned = prompt.sequences(self.class_names)
        zero_shot = prompt.hand_written(self.class_names)
        self.learned: PreparedPrompts = tower.prepare(learned)
        self.zero_shot: list[PreparedPrompts] = [tower.prepare(sequences) for sequences in zero_shot]
        self._teacher: list[PreparedPrompts] = []
        self._learned_features: TextCache[Tensor] = TextCache()
        self._teacher_features: TextCache[Tensor] = TextCache()
        self._zero_shot_features: TextCache[Tensor] = TextCache()

    def clear(self) -> None:
        """Forget all that is kept of these prompts."""
        for features in (self._learned_features, self._teacher_features, self._zero_shot_features):
            features.clear()
        for prompts in (self.learned, *self._teacher, *self.zero_shot):
            prompts.clear()

    def learned_features(self, tower: TextTower, vectors: Sequence[Tensor], compute: Callable[[], Tensor]) -> Tensor:
        """Features of the learned prompts with these vectors, computed or kept."""
        return _own_copy(self._learned_features, tower, vectors, compute)

    def zero_shot_features(self, tower: TextTower) -> Tensor:
        """Features `[C, P]` of the hand-written prompts, averaged where there are several; computed or kept."""
        return _own_copy(
            self._zero_shot_features, tower, (), lambda: average([tower.encode(each) for each in self.zero_shot])
        )

    def teacher_features(self, prompt: Prompt, tower: TextTower) -> Tensor:
        """The mean `[C, P]` over the teacher's templates of features that are not normalised; computed or kept."""

        def compute() -> Tensor:
            self._teacher = self._teacher or [tower.prepare(each) for each in prompt.teacher_texts(self.class_names)]
            return torch.stack([tower.encode(each) for each in self._teacher]).mean(0)

        return _own_copy(self._teacher_features, tower, (), compute)


def _own_copy(
    cache: TextCache[Tensor], tower: TextTower, vectors: Sequence[Tensor], compute: Callable[[], Tensor]
) -> Tensor:
    """Features from the cache; a copy, since the caller may normalise it in place."""
    state = tower.state()
    features = cache.get(state, compute, vectors)
    return features if state is None else features.clone()
