"""Copies of a model, made from a pickle of its structure: several times as fast as `deepcopy`."""

import io
import pickle
from collections.abc import Callable
from copy import deepcopy

from torch import Tensor, nn


def copies_of(model: nn.Module) -> Callable[[], nn.Module]:
    """A function that gives a new copy of what the model is now, which shares nothing with it."""
    tensors: list[Tensor] = []
    places: dict[int, int] = {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, thing):
            if not isinstance(thing, Tensor):
                return None
            if id(thing) not in places:
                places[id(thing)] = len(tensors)
                tensors.append(thing)
            return places[id(thing)]

    file = io.BytesIO()
    Pickler(file, pickle.HIGHEST_PROTOCOL).dump(model)
    tensors = [deepcopy(each) for each in tensors]  # the model may change

    class Unpickler(pickle.Unpickler):
        def __init__(self):
            super().__init__(io.BytesIO(file.getvalue()))
            self.tensors = [deepcopy(each) for each in tensors]

        def persistent_load(self, place):
            return self.tensors[place]

    return lambda: Unpickler().load()
