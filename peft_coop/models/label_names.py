"""The label names in a model's config, which follow the active adapter's classes."""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PretrainedConfig


class LabelNames:
    """The label names in a model's config, which follow the active adapter's classes.

    Args:
        config: the model's config; its own labels are remembered.
    """

    def __init__(self, config: PretrainedConfig):
        self.config = config
        self._own = (config.id2label, config.label2id)
        self.own_problem_type = getattr(config, "problem_type", None)

    def publish(self, class_names: Sequence[str] | None, problem_type: str | None = None) -> None:
        """Write `id2label`, `label2id` and so `num_labels`; None restores the config's own.

        Args:
            class_names: the classes.
            problem_type: how many of them an image has, as transformers calls it; None: as the config had it.
        """
        self.config.problem_type = problem_type or self.own_problem_type
        if class_names is None:
            self.config.id2label, self.config.label2id = self._own
            return
        self.config.id2label = dict(enumerate(class_names))
        self.config.label2id = {name: index for index, name in enumerate(class_names)}
