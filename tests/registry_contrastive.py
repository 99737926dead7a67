"""Cases of the contrastive and ranking losses."""

from __future__ import annotations

import math
from typing import Any

import contrastive_formulas as formulas
import numpy as np
from registry_case import NAN, Case, Edge, normal

import jaxloss

RNG = np.random.Generator
Shape = tuple[int, ...]


def matrix(shape: Shape) -> Shape:
    """Embeddings of a batch have two axes."""
    return math.prod(shape[:-1]), shape[-1]


def embeddings(rng: RNG, shape: Shape) -> list[np.ndarray]:
    """Neighbours that resemble each other, so that no similarity is far from the others."""
    x, y = normal(rng, matrix(shape))
    return [x + 1.0, 0.5 * x + y + 1.0]


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


_SIGMOID = 1 / (1 + math.exp(-1.0))  # of 1
_LOG = math.log1p(math.exp(-1.0))
_TINY = 1.8048513878454153e-35  # exp(-80)
_WARM = {"temperature": 1.0}
_UNBIASED = {"temperature": 1.0, "bias": 0.0}
_IN_BATCH_OPTIONS: dict[str, Any] = {
    "warm": {"temperature": 0.5},
    "kept": {"where": kept, "weights": weights, "temperature": 0.2},
    "everything": {"temperature": 2.0, "normalize": False},
}
_UNEQUAL = [[2.0**60, 0.0], [0.0, 2.0**-60]], [[2.0**-60, 0.0], [0.0, 2.0**60]]


_TOWARD = [[0.0, (1 - _SIGMOID) / 2.0**60], [(1 - _SIGMOID) * 2.0**60, 0.0]]
_AWAY = [[0.0, (1 - _SIGMOID) * 2.0**60], [(1 - _SIGMOID) / 2.0**60, 0.0]]
_ORIGIN = [[0.0, 0.0]] * 2
_OPPOSED = [[1.0, 0.0], [-1.0, 0.0]]
_IN_BATCH_EDGES = (
    Edge("one example", ([[3.0, 4.0]], [[-3.0, 4.0]]), [0.0], (_ORIGIN[:1], _ORIGIN[:1])),
    Edge("lengths far apart", _UNEQUAL, [_LOG, _LOG], (_TOWARD, _AWAY), _WARM),
    Edge("all alike", ([[1.0, 0.0]] * 3, [[2.0, 0.0]] * 3), [math.log(3.0)] * 3, ([[0.0, 0.0]] * 3,) * 2),
    Edge("zeros", (_ORIGIN, _ORIGIN), [math.log(2.0)] * 2, (_ORIGIN, _ORIGIN)),
    Edge("a zero", ([[0.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [2.0, 0.0]]), "finite", "finite"),
    Edge("confident", (_OPPOSED, _OPPOSED), [_TINY, _TINY], (_ORIGIN, _ORIGIN), {"temperature": 0.025}),
    Edge("nan", ([[NAN, 1.0]], [[1.0, 1.0]]), [NAN], "any"),
)
_N_PAIR_EDGES = (
    Edge("one example", ([[3.0, 4.0]], [[-3.0, 4.0]]), [0.0], (_ORIGIN[:1], _ORIGIN[:1])),
    Edge("zeros", (_ORIGIN, _ORIGIN), [math.log(2.0)] * 2, (_ORIGIN, _ORIGIN)),
    Edge("confident", ([[8.0], [-8.0]], [[5.0], [-5.0]]), [_TINY, _TINY], ([[-10 * _TINY], [10 * _TINY]], "finite")),
    Edge("wrong by far", ([[1e4], [-1e4]], [[-1.0], [1.0]]), [2e4, 2e4], ([[2.0], [-2.0]], [[-2e4], [2e4]])),
    Edge("nan", ([[NAN, 1.0]], [[1.0, 1.0]]), [NAN], "any"),
)
_SIGLIP_EDGES = (
    Edge("one example", ([[1.0, 0.0]], [[0.0, 4.0]]), [math.log(2.0)], ([[0.0, -0.5]], [[-0.125, 0.0]]), _UNBIASED),
    Edge("zeros", (_ORIGIN, _ORIGIN), [2 * math.log(2.0)] * 2, (_ORIGIN, _ORIGIN), _UNBIASED),
    Edge("a zero", ([[0.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [2.0, 0.0]]), "finite", "finite"),
    Edge("confident", (_OPPOSED, _OPPOSED), [2 * _TINY] * 2, (_ORIGIN, _ORIGIN), _UNBIASED | {"temperature": 0.0125}),
    Edge("nan", ([[NAN, 1.0]], [[1.0, 1.0]]), [NAN], "any"),
)

CASES = [
    Case(
        jaxloss.info_nce_loss,
        formulas.info_nce_loss,
        embeddings,
        "batch",
        options={**_IN_BATCH_OPTIONS, "negatives": {}, "negatives of each": {"temperature": 0.5}},
        makers={"negatives": with_negatives, "negatives of each": with_own_negatives},
        edges=_IN_BATCH_EDGES,
        temporaries=(2.5, 6.0),
    ),
    Case(
        jaxloss.clip_loss,
        formulas.clip_loss,
        embeddings,
        "batch",
        options=_IN_BATCH_OPTIONS,
        edges=_IN_BATCH_EDGES,
        temporaries=(3.0, 7.0),
    ),
    Case(
        jaxloss.n_pair_loss,
        formulas.n_pair_loss,
        embeddings,
        "batch",
        options={"kept": {"where": kept, "weights": weights}, "everything": {"l2_weight": 0.02}},
        edges=_N_PAIR_EDGES,
        zero=apart,
        temporaries=(0.5, 5.0),
    ),
    Case(
        jaxloss.siglip_loss,
        formulas.siglip_loss,
        embeddings,
        "batch",
        options={
            "kept": {"where": kept, "weights": weights},
            "everything": {"temperature": 0.5, "bias": -2.0, "normalize": False},
        },
        edges=_SIGLIP_EDGES,
        temporaries=(2.5, 6.0),
    ),
]
