"""Arguments for the cases of the contrastive losses: embeddings, pairs, triplets, lists, masks and weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from registry_case import normal

RNG = np.random.Generator
Shape = tuple[int, ...]


def matrix(shape: Shape) -> Shape:
    """Embeddings of a batch have two axes."""
    return math.prod(shape[:-1]), shape[-1]


def embeddings(rng: RNG, shape: Shape) -> list[np.ndarray]:
    """Neighbours that resemble each other, so that no similarity is far from the others."""
    x, y = normal(rng, matrix(shape))
    return [x + 1.0, 0.5 * x + y + 1.0]


def two_views(rng: RNG, shape: Shape) -> list[np.ndarray]:
    """Of two examples, features have correlations of 1 or -1 and no derivatives."""
    n, features = matrix(shape)
    return embeddings(rng, (max(n, 4), features))


def apart(rng: RNG, shape: Shape) -> list[np.ndarray]:
    """Pairs that point the same way, and no two of them."""
    x = 40.0 * np.eye(4, shape[-1])
    return [x, x.copy()]


def with_negatives(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [*embeddings(rng, shape), rng.standard_normal((7, shape[-1])) + 0.5]


def with_own_negatives(rng: RNG, shape: Shape) -> list[np.ndarray]:
    n, features = matrix(shape)
    return [*embeddings(rng, shape), rng.standard_normal((n, 3, features)) + 0.5]


def kept(rng: RNG, shape: Shape) -> np.ndarray:
    keep = rng.random(matrix(shape)[0]) < 0.7
    keep[0] = True
    return keep


def weights(rng: RNG, shape: Shape) -> np.ndarray:
    return rng.uniform(0.5, 2.0, matrix(shape)[0])


def rows_kept(rng: RNG, shape: Shape) -> np.ndarray:
    keep = rng.random(shape[:-1]) < 0.7
    keep.flat[0] = True
    return keep


def kept_elements(rng: RNG, shape: Shape) -> np.ndarray:
    keep = rng.random(shape) < 0.7
    keep.flat[0] = True
    return keep


def columns(low: float, high: float) -> Any:
    return lambda rng, shape: rng.uniform(low, high, shape[-1])


def for_rows(low: float, high: float) -> Any:
    """One number for each row, but for the first axis of the losses."""
    return lambda rng, shape: rng.uniform(low, high, shape[1:-1] or shape[:-1])


def signs(rng: RNG, shape: Shape) -> np.ndarray:
    return rng.choice([-1, 1], shape).astype(np.int32)


def triplets(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [*normal(rng, shape), rng.standard_normal(shape)]


def triplets_at(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    """Positives and negatives on opposite sides: the gradient of an anchor is a sum, and not a difference."""
    a, signs = scale * rng.standard_normal(shape), rng.choice([-1, 1], shape)
    return [a, a + scale * signs * rng.uniform(0.5, 2.0, shape), a - scale * signs * rng.uniform(0.5, 2.0, shape)]


def triplets_apart(rng: RNG, shape: Shape) -> list[np.ndarray]:
    x = rng.standard_normal(shape)
    return [x, x.copy(), x + 100.0]


def broadcast_negatives(rng: RNG, shape: Shape) -> list[np.ndarray]:
    a, p, n = triplets(rng, shape)
    return [a, p, n[0]]


def similar_or_not(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [*normal(rng, shape), rng.uniform(0.1, 0.9, shape[:-1])]


def similar_at(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    a, b, similar = similar_or_not(rng, shape)
    return [scale * a, scale * b, similar]


def similar_alike(rng: RNG, shape: Shape) -> list[np.ndarray]:
    x = rng.standard_normal(shape)
    return [x, x.copy(), np.ones(shape[:-1], np.int32)]


def signed_pairs(rng: RNG, shape: Shape, axis: int = -1) -> list[np.ndarray]:
    return [*normal(rng, shape), signs(rng, tuple(np.delete(shape, axis)))]


def signed_pairs_at(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    a, b, y = signed_pairs(rng, shape)
    return [scale * a, scale * b, y]


def distances(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [rng.uniform(0.0, 2.0, shape), signs(rng, shape)]


def distances_at(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    return [scale * x if x.dtype.kind == "f" else x for x in distances(rng, shape)]


def ranked(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [*normal(rng, shape), signs(rng, shape)]


def ranked_at(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    a, b, y = ranked(rng, shape)
    return [scale * a, scale * b, y]


def ranked_right(rng: RNG, shape: Shape) -> list[np.ndarray]:
    a, _, y = ranked(rng, shape)
    return [a, a - y, y]


def lists(rng: RNG, shape: Shape) -> list[np.ndarray]:
    """Graded relevance, with zeros."""
    return [2 * rng.standard_normal(shape), rng.integers(0, 3, shape) * rng.uniform(0.5, 1.0, shape)]


def lists_apart(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    """The best item is relevant."""
    scores = scale * rng.standard_normal(shape)
    return [scores, 1.0 * (scores == scores.max(-1, keepdims=True))]


def ragged(rng: RNG, shape: Shape) -> np.ndarray:
    """Lists of any length; nothing of the second."""
    length = rng.integers(1, shape[-1] + 1, shape[:-1])
    length.flat[1:2] = 0
    return np.arange(shape[-1]) < length[..., None]


def items(low: float, high: float) -> Any:
    return lambda rng, shape: rng.uniform(low, high, shape)


def in_groups(rng: RNG, shape: Shape) -> list[np.ndarray]:
    """Groups of two and three."""
    n, features = matrix(shape)
    return [rng.standard_normal((n, features)) + 0.5, (np.arange(n) % 3).astype(np.int32)]
