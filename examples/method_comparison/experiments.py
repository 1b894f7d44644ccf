"""What is compared: every prompt method that takes plain class names, and PEFT's own methods on both towers."""

from __future__ import annotations

from typing import Any

from peft import IA3Config
from torch import nn

from peft_coop import demo
from peft_coop.evaluation import (
    ComparedMethod,
    LayerNormTuning,
    LoRATuning,
    PromptLearning,
    TowerTuning,
    TwoStage,
    ZeroShot,
)
from peft_coop.methods import METHODS

# PEFT's methods take 250 steps, and not the 8,000 that CLIP-LoRA has for 16 shots. Their rate was chosen for that, of
# 0.002 and 0.005, on training images that nothing was learned from.
NUM_EPOCHS = 50
RATE = 0.005
SMOKE = ("coop", "ia3")


class IA3Tuning(TowerTuning):
    """IA3: a factor for each key, value and hidden unit of every layer of both towers.

    Reference: IA3 (arXiv:2205.05638).
    """

    key = "ia3"
    name = "IA3"

    def make_config(self, model: nn.Module) -> IA3Config:
        """With the names that CLIP's modules have."""
        return IA3Config(target_modules=["k_proj", "v_proj", "fc2"], feedforward_modules=["fc2"])


def prompt_methods(num_epochs: int | None = None) -> list[PromptLearning]:
    """Each by its paper's recipe; SGD at the demo's rate, since its CLIP has a logit scale of 23, not 100."""
    methods = []
    for key, method in METHODS.items():
        if "few-shot" not in method.protocols:
            continue
        recipe: dict[str, Any] = {} if num_epochs is None else {"num_epochs": num_epochs}
        if method.recipe(16, None, "few-shot").optimizer == "sgd":
            recipe["learning_rate"] = demo.learning_rate(key)
        methods.append(PromptLearning(key, recipe=recipe).for_protocol("few-shot"))
    return methods


def peft_methods(num_epochs: int = NUM_EPOCHS) -> list[TowerTuning]:
    """PEFT's own methods, with the texts of the class names as the classifier."""
    kinds = (LoRATuning, IA3Tuning, LayerNormTuning, TwoStage)
    return [kind(RATE, num_epochs=num_epochs) for kind in kinds]


def every_method(smoke: bool = False) -> dict[str, ComparedMethod]:
    """By their keys; to see that all works, three of them and an epoch."""
    methods: list[ComparedMethod] = [ZeroShot()]
    if smoke:
        methods += [method for method in (*prompt_methods(1), *peft_methods(1)) if method.key in SMOKE]
    else:
        methods += [*prompt_methods(), *peft_methods()]
    return {method.key: method for method in methods}
