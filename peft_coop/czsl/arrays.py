"""What callers give, as arrays that are what they must be."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


def as_array(values: Any) -> NDArray:
    """A tensor, wherever it lies and whatever its type, an array or nested lists as an array.

    Raises:
        ValueError: for an array with a mask, which would not be looked at.
    """
    if isinstance(values, np.ma.MaskedArray):
        raise ValueError("Arrays with a mask are not taken: give `array.filled(...)`, and `candidates` for columns.")
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        values = values.float() if values.dtype == torch.bfloat16 else values  # NumPy has no such type
    return np.asarray(values)


def score_array(values: Any) -> NDArray:
    """Scores as float32 or float64; what NumPy computes slowly or not exactly is widened.

    Raises:
        ValueError: if they are no real numbers.
    """
    array = as_array(values)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"`scores` must be real numbers, got the type {array.dtype}.")
    if array.dtype == np.float16:
        return array.astype(np.float32)
    return array if array.dtype == np.float32 else array.astype(np.float64)


def whole_numbers(values: Any, name: str, ndim: int) -> NDArray:
    """Indices as int64, of so many axes.

    Raises:
        ValueError: if they have another number of axes or are no whole numbers.
    """
    array = as_array(values)
    if array.ndim != ndim:
        raise ValueError(f"`{name}` must have {ndim} axes, got the shape {array.shape}.")
    if array.size and array.dtype.kind not in "iu":
        raise ValueError(f"`{name}` must be whole numbers, got the type {array.dtype}.")
    return array.astype(np.int64)


def mask(values: Any, name: str, length: int) -> NDArray:
    """A bool for each of so many pairs, as a copy: what the caller does to its own changes nothing here.

    Raises:
        ValueError: if it has another type or length: a list of indices is no mask.
    """
    array = as_array(values)
    if array.dtype != bool or array.shape != (length,):
        raise ValueError(
            f"`{name}` must be {length} times True or False, one for each pair, "
            f"got the shape {array.shape} of type {array.dtype}."
        )
    return array.copy()


def finite(values: Any, name: str, shape: tuple[int | None, ...]) -> NDArray:
    """Finite numbers of this shape as an array of floats; None is any length.

    Raises:
        ValueError: if they have another shape, or one of them is no finite number.
    """
    array = as_array(values)
    fits = array.ndim == len(shape) and all(want in (None, got) for want, got in zip(shape, array.shape, strict=True))
    if not fits or array.dtype.kind not in "fiu":
        wanted = ", ".join("any" if length is None else str(length) for length in shape)
        raise ValueError(f"`{name}` must be numbers of shape ({wanted}), got {array.shape} of type {array.dtype}.")
    if not np.isfinite(array).all():
        place = tuple(map(int, np.argwhere(~np.isfinite(array))[0]))
        raise ValueError(f"`{name}` must be finite, got {array[place]} at {place}.")
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)
