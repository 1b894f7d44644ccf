"""Every method in the forms that it comes in: what the tests run over that each method must pass."""

from dataclasses import dataclass, field, fields
from typing import Any

import pytest
from peft import PeftConfig

from peft_coop import CoCoOpConfig, CoOpConfig

CONFIGS: dict[str, type[PeftConfig]] = {"coop": CoOpConfig, "cocoop": CoCoOpConfig}
FORMS = {
    "end": {},
    "middle": {"class_token_position": "middle"},
    "front": {"class_token_position": "front"},
    "class-specific": {"class_specific_context": True},
    "words": {"n_ctx": None, "ctx_init": "a photo of a"},
}


@dataclass(frozen=True)
class Kind:
    """A method in one of its forms."""

    method: str
    form: str
    config_class: type[PeftConfig]
    settings: dict[str, Any] = field(hash=False)

    def config(self, **settings: Any) -> PeftConfig:
        return self.config_class(**{**self.settings, **settings})


def kinds() -> list[Kind]:
    """Each method in every form whose fields its config has."""
    found = []
    for method, config_class in CONFIGS.items():
        names = {each.name for each in fields(config_class)}
        common = {name: value for name, value in {"n_ctx": 3, "ctx_init": None}.items() if name in names}
        found += [
            Kind(method, form, config_class, {**common, **settings})
            for form, settings in FORMS.items()
            if names.issuperset(settings)
        ]
    return found


KINDS = kinds()
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.method}-{kind.form}")
