"""Prompts as a text tower reads them, made once for all calls."""

from __future__ import annotations

from abc import ABC, abstractmethod
from copy import copy
from typing import TYPE_CHECKING, Any, ClassVar

import torch

if TYPE_CHECKING:
    from typing_extensions import Self


class PreparedPrompts(ABC):
    """C prompts as tensors, with a copy of them on every device where they were needed.

    They stay where they are, since replicas of a model on other devices read them at the same time.

    Attributes:
        tensors: names of the attributes that move to a device.
    """

    tensors: ClassVar[tuple[str, ...]]

    def __init__(self) -> None:
        self._copies: dict[torch.device, Self] = {}

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where they are."""

    def forget(self) -> None:  # noqa: B027  most keep nothing
        """Forget what is kept of these prompts on their own device."""

    def clear(self) -> None:
        """Forget what is kept of them, on every device."""
        self.forget()
        for other in self._copies.values():
            other.forget()

    def to(self, device: torch.device) -> Self:
        """These prompts on `device`: themselves, or a copy that is made once and kept."""
        if self.device == device:
            return self
        if device not in self._copies:
            other = copy(self)
            other.forget()
            with torch.inference_mode(False):  # training may use them later
                for name in self.tensors:
                    setattr(other, name, getattr(self, name).to(device))
            self._copies[device] = other
        return self._copies[device]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_copies": {}}  # copies and pickles start without
