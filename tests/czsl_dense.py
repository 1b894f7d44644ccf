"""Compositional zero-shot metrics the slow way: all scores at once, every bias tried by adding it."""

from itertools import pairwise

import numpy as np
import torch


def make_case(seed: int, num_images: int = 30, levels: int | None = None, dtype=np.float32, width: int = 2) -> dict:
    """Random scores of 4 x 5 pairs, of which some are no candidates; with levels, many scores are equal."""
    rng = np.random.default_rng(seed)
    ids = np.array([(a, o) for a in range(4) for o in range(5)])
    ids = np.concatenate([ids[:, 1:] % 2, ids], axis=1) if width == 3 else ids
    order = rng.permutation(len(ids))
    seen = rng.random(len(ids)) < 0.5
    candidates = rng.random(len(ids)) < 0.8
    seen[:4], candidates[:4] = [True, True, False, False], True
    labels = rng.choice(np.flatnonzero(candidates), num_images)
    labels[:2] = 0, 2
    scores = rng.normal(size=(num_images, len(ids))) * 2 + 20
    scores[np.arange(num_images), labels] += 2
    if levels:
        scores = np.round((scores - 20) * levels / 8)
    given = {"scores": scores.astype(dtype), "labels": labels, "pair_ids": ids[order], "seen": seen}
    return given | {"candidates": candidates}


def harmonic(seen: float, unseen: float) -> float:
    return 2 * seen * unseen / (seen + unseen) if seen and unseen else 0.0


def is_right(scores: np.ndarray, labels: np.ndarray, topk: int) -> np.ndarray:
    """Whether the true column is among the best, of which the lower comes first where scores are equal."""
    best = np.argsort(-scores, axis=1, kind="stable")[:, :topk]
    return (best == labels[:, None]).any(axis=1) & np.isfinite(scores[np.arange(len(labels)), labels])


def dense_metrics(scores, labels, pair_ids, seen, candidates, topk=1) -> dict:
    """Every bias at which two scores of an image meet, and one between each two of them."""
    scores = np.where(candidates, np.asarray(scores, dtype=np.float64), -np.inf)
    with np.errstate(invalid="ignore"):
        differences = scores[:, seen & candidates][:, :, None] - scores[:, ~seen & candidates][:, None, :]
    steps = np.unique(differences[np.isfinite(differences)])
    middles = (steps[1:] + steps[:-1]) / 2
    biases = np.concatenate([[steps[0] - 1], middles, [steps[-1] + 1]]) if len(steps) else [0.0]
    of_seen, points = seen[labels], []
    for bias in biases:
        right = is_right(scores + np.where(seen, 0, bias), labels, topk)
        points.append((right[of_seen].mean(), right[~of_seen].mean()))
    means = [harmonic(*point) for point in points]
    area = points[0][0] * points[0][1]
    for (high, left), (low, place) in pairwise(points):
        area += (place - left) * (high + low) / 2
    predicted = pair_ids[scores.argmax(axis=1)] == pair_ids[labels]
    best = points[int(np.argmax(means))]
    return {
        "best_seen": points[0][0],
        "best_unseen": points[-1][1],
        "best_hm": max(means),
        "auc": area,
        "best_hm_seen": best[0],
        "best_hm_unseen": best[1],
        "attr_acc": predicted[:, :-1].all(axis=1).mean(),
        "obj_acc": predicted[:, -1].mean(),
        "pair_acc": is_right(scores, labels, topk).mean(),
    }


def dense_reference(scores, labels, pair_ids, seen, candidates, topk=1) -> dict:
    """The original's protocol on a float32 tensor, bias by bias."""
    scores, seen = torch.as_tensor(scores).float(), torch.as_tensor(seen)
    labels, masked = torch.as_tensor(labels), ~torch.as_tensor(candidates)
    of_seen = seen[labels]

    def right(bias):
        biased = scores.clone()
        biased[:, ~seen] += bias
        biased[:, masked] = -1e10
        best = biased.sort(dim=1, descending=True, stable=True).indices[:, :topk]
        return (best == labels[:, None]).any(dim=1).float()

    first = right(1e3)
    highest = scores[:, seen & ~masked].topk(topk, dim=1).values[:, topk - 1]
    margins = (highest - scores[torch.arange(len(labels)), labels])[~of_seen]
    margins = (margins[first[~of_seen].bool()] - 1e-4).sort().values
    biases = margins[:: max(len(margins) // 20, 1)]
    points = [right(bias) for bias in biases] + [first]
    at_seen = np.array([float(point[of_seen].mean()) for point in points])
    at_unseen = np.array([float(point[~of_seen].mean()) for point in points])
    means = [harmonic(*point) for point in zip(at_seen, at_unseen, strict=True)]
    place = int(np.argmax(means))
    area = sum((at_unseen[i + 1] - at_unseen[i]) * (at_seen[i + 1] + at_seen[i]) / 2 for i in range(len(points) - 1))
    return {
        "best_seen": at_seen.max(),
        "best_unseen": at_unseen.max(),
        "best_hm": max(means),
        "auc": area,
        "best_hm_seen": at_seen[place],
        "best_hm_unseen": at_unseen[place],
        "best_hm_bias": float([*biases, 1e3][place]),
        "pair_acc": float(right(0).mean()),
    }


def slow_feasibility(attrs: np.ndarray, objs: np.ndarray, trained: set[tuple[int, int]]) -> np.ndarray:
    def cosine(x, y):
        return x @ y / np.sqrt((x @ x) * (y @ y))

    found = np.zeros((len(attrs), len(objs)))
    for a in range(len(attrs)):
        for o in range(len(objs)):
            if (a, o) in trained:
                continue
            to_objects = [cosine(objs[o], objs[p]) for p in range(len(objs)) if p != o and (a, p) in trained]
            to_attributes = [cosine(attrs[a], attrs[b]) for b in range(len(attrs)) if b != a and (b, o) in trained]
            found[a, o] = (max(to_objects, default=-1) + max(to_attributes, default=-1)) / 2
    return found
