"""From logits to probabilities, and to "other": what is decided with a trained prompt."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..methods import Prompt
from ..methods.config import DECISION_FIELDS, OTHER, check_decision
from ..towers import TextTower, text_tower
from .class_texts import ClassTexts
from .prompt_embeddings import CLASS_NAMES

if TYPE_CHECKING:
    from torch.nn import Module as _Module
else:
    _Module = object


class DecisionsMixin(_Module):
    """The part of a prompt classifier that makes probabilities of logits; its forward knows nothing of it."""

    @property
    def decision(self) -> dict[str, Any]:
        """What is decided by: the config's fields of it, all None while adapters are disabled."""
        layer = self.prompt_layer
        if layer.disable_adapters or layer.current_adapter is None:
            return dict.fromkeys(DECISION_FIELDS)
        return deepcopy(chosen_decision(layer.prompt.settings))

    @property
    def judges_each_class(self) -> bool:
        """Whether an image has any number of the active adapter's classes; not while adapters are disabled."""
        layer = self.prompt_layer
        enabled = not layer.disable_adapters and layer.current_adapter is not None
        return enabled and layer.prompt.settings.has_several_labels

    def set_decision(
        self,
        calibration_temperature: float | None = None,
        min_probability: float | None = None,
        other_names: Sequence[str] | None = None,
    ) -> None:
        """Say how the active adapter's probabilities are made, and what is answered; saved with the adapter.

        What is not given is None from then on. It belongs to the classes of now: `set_classes` with others drops it.

        Args:
            calibration_temperature: what logits are divided by.
            min_probability: an image whose best class is less likely is answered with "other".
            other_names: names of what is none of the classes; their probabilities add up to that of "other".

        Raises:
            TypeError, ValueError: if a value is not one of those accepted, the adapter has no classes, or it cannot
                have others beside them.
        """
        layer = self.prompt_layer
        class_names = layer.texts.class_names
        given = dict(zip(DECISION_FIELDS, (calibration_temperature, min_probability, other_names), strict=True))
        self._write_decision(checked_decision(layer.prompt, class_names, given, text_tower(self)))

    @torch.no_grad()
    def probabilities(self, **inputs: Any) -> Tensor:
        """Probabilities of the active adapter's classes, at its temperature.

        While the adapter is disabled they are zero-shot CLIP's, for which nothing was fitted.

        Args:
            **inputs: the images, as forward takes them; `labels` are not looked at.

        Returns:
            `[B, C]`; with `other_names` `[B, C + 1]`, whose last column is "other". Rows sum to 1, unless an image has
            any number of classes: then each is for itself. Of pixels `[B, C, h, w]`.

        Raises:
            ValueError: if other classes are chosen, which nothing was fitted to.
        """
        class_names, decision = self.prompt_layer.texts.class_names, self.decision
        inputs.pop("labels", None)
        choosing = (CLASS_NAMES, *self.prompt_layer.prompt.call_arguments, "adapter_names", "input_ids")
        chosen = [name for name in choosing if inputs.get(name) is not None]
        if chosen:
            raise ValueError(
                f"Probabilities are of the active adapter's own classes, which its decision was made for: leave out "
                f"`{chosen[0]}`, or take the logits of a call."
            )
        if decision["other_names"]:
            inputs[CLASS_NAMES] = [*class_names, *decision["other_names"]]
        logits = decided_logits(self(**inputs).logits, len(class_names), decision["calibration_temperature"])
        return logits.sigmoid() if self.judges_each_class else logits.softmax(1)

    def drop_decision_of(self, class_names: Sequence[str] | None) -> None:
        """Forget what was decided for other classes than those of now, with a warning.

        Args:
            class_names: those of before; another order of the same changes nothing. None: there were none, and what the
                config has was chosen for those of now.
        """
        layer = self.prompt_layer
        chosen = chosen_decision(layer.prompt.settings)
        decided = {name: value for name, value in chosen.items() if value is not None}
        if not decided or class_names is None or sorted(class_names) == sorted(layer.texts.class_names):
            return
        told = ", ".join(f"`{name}` {value!r}" for name, value in decided.items())
        self._write_decision(dict.fromkeys(DECISION_FIELDS))
        warnings.warn(
            f"What adapter {layer.required_adapter!r} decides by was chosen for its classes of before and is dropped: "
            f"{told}. Fit it to the new classes. Where others are wanted in single calls, give these `class_names`, "
            "and the adapter stays as it is.",
            stacklevel=3,
        )

    def _write_decision(self, decision: dict[str, Any]) -> None:
        """Write it both where it is read from and where it is saved from."""
        layer = self.prompt_layer
        for config in (layer.prompt.settings, self.peft_config[layer.required_adapter]):
            for name, value in decision.items():
                setattr(config, name, deepcopy(value))


def checked_decision(
    prompt: Prompt, class_names: Sequence[str], decision: Mapping[str, Any], tower: TextTower
) -> dict[str, Any]:
    """Check what a prompt is to decide by beside its classes, and return it as plain values.

    Args:
        prompt: the prompt.
        class_names: its classes.
        decision: the values of `DECISION_FIELDS`.
        tower: reads the prompts.

    Raises:
        TypeError, ValueError: if a value is not one of those accepted, or the prompt cannot have such other names.
    """
    temperature, least, others = (decision[name] for name in DECISION_FIELDS)
    temperature, least, others = check_decision(temperature, least, others, list(class_names))
    prompt.settings.check_answers(least, others)
    if others:
        names = [*class_names, *others]
        prompt.check_classes(names, class_names)
        ClassTexts(names, prompt, tower)  # what is too long for a prompt is said here
    return dict(zip(DECISION_FIELDS, (temperature, least, others), strict=True))


def chosen_decision(settings: Any) -> dict[str, Any]:
    """What the settings of an adapter decide by."""
    return {name: getattr(settings, name) for name in DECISION_FIELDS}


def decided_logits(logits: Tensor, n_cls: int, temperature: float | None = None) -> Tensor:
    """Logits whose softmax is what is decided by: at a temperature, and those of other names as one.

    Args:
        logits: `[B, C + O]`, of C classes and O other names; of pixels with further axes.
        n_cls: C.
        temperature: what they are divided by; None: 1.

    Returns:
        `[B, C]`, or `[B, C + 1]` with "other" last where there are other names.
    """
    scaled = logits.to(torch.promote_types(logits.dtype, torch.float32)) / (temperature or 1.0)
    if logits.shape[1] == n_cls:
        return scaled
    return torch.cat([scaled[:, :n_cls], scaled[:, n_cls:].logsumexp(1, keepdim=True)], dim=1)


def answers_other(probabilities: Tensor, n_cls: int, min_probability: float | None = None) -> Tensor:
    """Whether each image is answered with "other": it is likelier than any class, or no class is likely enough.

    Args:
        probabilities: `[B, C]` or `[B, C + 1]`, as `probabilities` of a classifier gives them; of pixels
            `[B, C, h, w]`; or of a single image `[C]`.
        n_cls: C.
        min_probability: of the best class; None: any.

    Returns:
        Of bool, without the axis of the classes: `[B]`, `[B, h, w]` or a scalar.

    Raises:
        ValueError: if there are not C or C + 1 classes in that axis.
    """
    axis = min(probabilities.ndim - 1, 1)
    if probabilities.ndim not in (1, 2, 4) or probabilities.shape[axis] not in (n_cls, n_cls + 1):
        raise ValueError(
            "`probabilities` must be (images, classes), (classes,) or, of pixels, (images, classes, height, width), "
            f"with {n_cls} classes, and perhaps 'other'; got {tuple(probabilities.shape)}."
        )
    best = probabilities.narrow(axis, 0, n_cls).amax(axis)
    is_other = best < (min_probability or 0.0)
    if probabilities.shape[axis] > n_cls:
        is_other = is_other | (probabilities.select(axis, n_cls) > best)
    return is_other


__all__ = ["OTHER", "DecisionsMixin", "answers_other", "decided_logits"]
