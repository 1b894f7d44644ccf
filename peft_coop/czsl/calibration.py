"""Which unseen pairs are likely to exist, by how alike their words are to those of seen pairs; scores without others.

Mancini et al., Open World Compositional Zero-Shot Learning (arXiv:2101.12609), as CSP (arXiv:2204.03574) uses it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arrays import as_array, finite, mask, score_array, whole_numbers

# Of a word that no seen pair makes comparable: the lowest cosine that there is.
NOTHING_ALIKE = -1.0


def feasibility(attr_vecs: Any, obj_vecs: Any, train_pairs: Any) -> NDArray:
    """How likely each pair exists, from vectors of its words.

    Of an unseen pair (a, o): the mean of the highest cosine of o to an object that training has with a, and of the
    highest cosine of a to an attribute that training has with o; where there is none, -1 stands for it.

    Shapes: A attributes, O objects, T training pairs; vectors of attributes and of objects may differ in width.

    Args:
        attr_vecs: `[A, E]`, a word vector for each attribute, for instance of `read_word_vectors`.
        obj_vecs: `[O, E]`, for each object.
        train_pairs: `[T, 2]`, attribute and object of each training pair as indices of these rows.

    Returns:
        `[A, O]` in float64, from -1 to 1. Training pairs hold 0, which says nothing of them: they exist. Flattened, it
        fits the columns of all pairs, object fastest.

    Raises:
        ValueError: if shapes do not fit, there is no training pair, an index has no row, or a vector is not finite or
            all zeros, which has no direction.
    """
    attrs, objs = _directions(attr_vecs, "attr_vecs"), _directions(obj_vecs, "obj_vecs")
    trained = _trained(train_pairs, len(attrs), len(objs))
    by_object = _most_alike(objs @ objs.T, trained)
    by_attribute = _most_alike(attrs @ attrs.T, trained.T).T
    return np.where(trained, 0.0, (by_object + by_attribute) / 2)


def calibrate_scores(
    scores: Any, feasibility_scores: Any, threshold: float, seen: Any, reference_quirks: bool = False
) -> NDArray:
    """Scores of which infeasible pairs are out of the question: unseen ones whose feasibility is below a threshold.

    Works on all columns or on a block of them, before `CZSLMetrics.update` or `update_parts`.

    Args:
        scores: `[N, M]`, of N images over M pairs.
        feasibility_scores: `[M]`, of each column; what it is of a seen pair does not matter.
        threshold: the lowest feasibility of an unseen pair that stays.
        seen: `[M]` of bool, whether a pair is one of those trained on.
        reference_quirks: as the original has it, in float32: scores of infeasible pairs become 0, which is above those
            that are negative; and a threshold of 0 or less doubles the scores of seen pairs.

    Returns:
        `[N, M]`, a copy: minus infinity for infeasible pairs.

    Raises:
        ValueError: if shapes or types do not fit, or the threshold or a feasibility is no finite number.
    """
    if not np.isfinite(threshold):
        raise ValueError(f"`threshold` must be a finite number, got {threshold}.")
    values = score_array(scores)
    if values.ndim != 2:
        raise ValueError(f"`scores` must have a row for each image, a column for each pair; got {values.shape}.")
    feasible = finite(feasibility_scores, "feasibility_scores", (values.shape[1],))
    seen = mask(seen, "seen", values.shape[1])
    if reference_quirks:
        passed = feasible.astype(np.float32) >= np.float32(threshold)
        return values.astype(np.float32) * np.where(seen, seen_factor(threshold), passed.astype(np.float32))
    return np.where(seen | (feasible >= threshold), values, values.dtype.type(-np.inf))


def seen_factor(threshold: float) -> np.float32:
    """What the original multiplies scores of seen pairs by: their feasibility, which counts like any other, is 0."""
    return np.float32(2 if np.float32(threshold) <= 0 else 1)


def _directions(vectors: Any, name: str) -> NDArray:
    values = finite(vectors, name, (None, None)).astype(np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    if not lengths.all():
        raise ValueError(f"Every row of `{name}` must have a direction, got only zeros in row {lengths.argmin()}.")
    return values / lengths


def _trained(train_pairs: Any, num_attrs: int, num_objs: int) -> NDArray:
    """`[A, O]` of bool, whether training has the pair."""
    pairs = whole_numbers(as_array(train_pairs), "train_pairs", ndim=2)
    if pairs.shape[1] != 2 or not len(pairs):
        raise ValueError(f"`train_pairs` must have a row (attribute, object) for each pair, got {pairs.shape}.")
    for name, ids, count in (("attribute", pairs[:, 0], num_attrs), ("object", pairs[:, 1], num_objs)):
        outside = ids[(ids < 0) | (ids >= count)]
        if len(outside):
            raise ValueError(
                f"`train_pairs` must have {name}s from 0 to {count - 1}, rows of the vectors; got {outside[0]}."
            )
    trained = np.zeros((num_attrs, num_objs), dtype=bool)
    trained[pairs[:, 0], pairs[:, 1]] = True
    return trained


def _most_alike(cosines: NDArray, trained: NDArray) -> NDArray:
    """`[A, O]`, of each object its highest cosine to another that training has with the attribute."""
    found = np.full(trained.shape, NOTHING_ALIKE)
    for row, objects in enumerate(trained):
        if objects.any():
            found[row] = cosines[:, objects].max(axis=1)
    return found
