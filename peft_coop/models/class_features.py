"""Text features of classes: kept where nothing has changed, and in parts where there are more than fit at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..methods import Prompt
from ..progress import stage
from ..prompts import PromptSequences
from ..towers import NO_DEEP_VECTORS, DeepVectors, average, normalize, text_tower
from .class_texts import ClassTexts
from .training_step import zero_shot_text_embeds

if TYPE_CHECKING:
    from .classifier import PromptClassifierMixin


def encode_classes(model: PromptClassifierMixin, texts: ClassTexts, prompt: Prompt, vectors: Tensor) -> Tensor:
    """Text features of classes: from the cache in evaluation, if no gradient must reach the vectors.

    Args:
        model: the classifier.
        texts: the classes.
        prompt: the one that they are read with.
        vectors: what `Prompt.vectors` gave.

    Returns:
        `[C, P]`, or `[B, C, P]` where the vectors depend on the image; not normalised.
    """
    tower, memory = text_tower(model), model.prompt_layer.memory
    if not prompt.changes_text:
        return texts.zero_shot_features(tower)
    deep = deep_vectors(prompt, lambda: zero_shot_text_embeds(model, texts))
    every = (vectors, *deep.values())
    learns = any(each.requires_grad for each in every) and torch.is_grad_enabled()
    if model.training or prompt.needs_images or learns:
        return tower.encode(texts.learned, vectors, memory, deep)
    return texts.learned_features(tower, every, lambda: tower.encode(texts.learned, vectors, memory, deep))


def deep_vectors(prompt: Prompt, zero_shot: Callable[[], Tensor]) -> DeepVectors:
    """A prompt's vectors at deeper layers, those of each class included.

    Args:
        prompt: the prompt.
        zero_shot: computes the classes' features in the frozen model, `[C, P]`, L2-normalised.
    """
    of_classes = prompt.class_vectors(zero_shot()) if prompt.has_class_vectors else NO_DEEP_VECTORS
    return {**prompt.deep_vectors(), **of_classes}


def encode_in_parts(
    model: PromptClassifierMixin, class_names: Sequence[str], part_size: int, progress: bool = False
) -> Tensor:
    """Text features of classes under the active adapter, of those that begin alike in the same part.

    Args:
        model: the classifier.
        class_names: C names.
        part_size: classes per part.
        progress: show a bar.

    Returns:
        `[C, P]`, L2-normalised.

    Raises:
        ValueError: if the prompts depend on the image, or each class has vectors of its own, which come of all classes.
    """
    layer, tower = model.prompt_layer, text_tower(model)
    if layer.prompt.needs_images or layer.prompt.has_class_vectors:
        raise ValueError(
            f"The texts of {type(layer.prompt).__name__} depend on the image or on the other classes: they cannot be "
            "encoded in parts. Choose the classes with `set_classes`, and call the model."
        )
    if layer.disable_adapters:
        vectors, deep, every = None, NO_DEEP_VECTORS, layer.prompt.hand_written(class_names)
    else:
        vectors, deep = _settled_vectors(layer.prompt)
        every = [layer.prompt.sequences(class_names)]
    order = sorted(range(len(class_names)), key=lambda index: every[0].ids[index])
    features = torch.empty(0)
    with stage("Encoding classes", len(order), "class", shown=progress) as bar:
        for start in range(0, len(order), part_size):
            part = order[start : start + part_size]
            kinds = [tower.prepare(_select(sequences, part)) for sequences in every]
            encoded = normalize(average([tower.encode(prompts, vectors, layer.memory, deep) for prompts in kinds]))
            if not start:
                features = encoded.new_empty(len(order), encoded.shape[-1])
            features[torch.tensor(part, device=encoded.device)] = encoded
            bar.update(len(part))
    return features


def _settled_vectors(prompt: Prompt) -> tuple[Tensor, DeepVectors]:
    """A prompt's vectors, nothing of them left out, as in evaluation."""
    was_training = prompt.training
    prompt.eval()
    try:
        return prompt.vectors(), prompt.deep_vectors()
    finally:
        prompt.train(was_training)


def _select(sequences: PromptSequences, indices: Sequence[int]) -> PromptSequences:
    return replace(sequences, ids=tuple(sequences.ids[index] for index in indices))
