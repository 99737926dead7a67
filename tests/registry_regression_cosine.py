"""Cases of the cosine of two vectors."""

from __future__ import annotations

import formulas_regression as formulas
import numpy as np
from registry_case import INF, NAN, Case, Edge, equal_pair, normal

import jaxloss

RNG = np.random.Generator
Shape = tuple[int, ...]


def shared_targets(rng: RNG, shape: Shape) -> list[np.ndarray]:
    x, y = normal(rng, shape)
    return [x, y[0]]


def of_length(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    """Predictions of this length."""
    x, y = normal(rng, shape)
    return [scale * x, y]


def turned(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    """Targets that are off by an angle, and three times as long."""
    x, y = normal(rng, shape)
    return [x, 3 * (x + scale * y)]


def rows_kept(rng: RNG, shape: Shape) -> np.ndarray:
    return np.arange(shape[0]) % 3 != 1


def entries_kept(rng: RNG, shape: Shape) -> np.ndarray:
    keep = rng.random(shape) < 0.6
    keep[:, 0], keep[-1] = True, False  # a row of which nothing is kept
    return keep


def for_rows(rng: RNG, shape: Shape) -> np.ndarray:
    return rng.uniform(0.5, 2.0, shape[:1])


def floors(rng: RNG, shape: Shape) -> np.ndarray:
    return rng.uniform(2.0, 8.0, shape[:1])


def common(name: str, **given: object) -> Case:
    return Case(
        getattr(jaxloss, name),
        getattr(formulas, name),
        normal,
        "axis",
        options={
            "first axis": {"axis": 0},
            "two axes": {"axis": (0, 2)},
            "all axes": {"axis": None},
            "rows": {"where": rows_kept, "weights": for_rows},
            "entries": {"where": entries_kept},
            "epsilon": {"epsilon": 4.0},
            "epsilons": {"epsilon": floors, "where": rows_kept},
            "everything": {"epsilon": 4.0, "where": entries_kept, "weights": for_rows},
            "broadcast targets": {},
        },
        shapes={"first axis": (5, 8), "two axes": (2, 4, 3)},
        makers={"broadcast targets": shared_targets},
        optax=name,
        conditioned=0.0,
        **given,
    )


ZERO = ([[0.0, 0.0], [0.0, 0.0]], [[3.0, 4.0], [0.0, 0.0]])
LONG = ([[3e30, 0.0], [3e-30, 0.0], [2e38, 2e38]], [[4e-30, 4e-30], [0.0, -1e30], [-2e-38, -2e-38]])
RIGHT = ([[2.0, 0.0]], [[0.0, 4.0]])
NOTHING = [[0.0, 0.0], [0.0, 0.0]]
NOT_A_NUMBER = Edge("nan", ([[NAN, 1.0]], [[1.0, 1.0]]), [NAN], ([[NAN, NAN]], "any"))

CASES = [
    common(
        "cosine_similarity",
        nonnegative=False,
        accurate=of_length,
        scales=(1e-12, 1.0, 1e30),
        edges=(
            NOT_A_NUMBER,
            Edge("zero", ZERO, [0.0, 0.0], (NOTHING, NOTHING)),
            Edge("zero with epsilon", ZERO, [0.0, 0.0], ([[6.0, 8.0], [0.0, 0.0]], NOTHING), {"epsilon": 0.01}),
            Edge("long and short", LONG, [0.5**0.5, 0.0, -1.0]),
            Edge("right angle", RIGHT, [0.0], ([[0.0, 0.5]], [[0.25, 0.0]])),
            Edge("infinite", ([[INF, 0.0]], [[1.0, 0.0]]), [NAN], "any"),
        ),
    ),
    common(
        "cosine_distance",
        zero=equal_pair,
        accurate=turned,
        scales=(1e-6, 1e-3, 1.0),
        edges=(
            NOT_A_NUMBER,
            Edge("zero", ZERO, [1.0, 1.0], (NOTHING, NOTHING)),
            Edge("zero with epsilon", ZERO, [1.0, 1.0], ([[-6.0, -8.0], [0.0, 0.0]], NOTHING), {"epsilon": 0.01}),
            Edge("long and short", LONG, [1 - 0.5**0.5, 1.0, 2.0]),
            Edge("right angle", RIGHT, [1.0], ([[0.0, -0.5]], [[-0.25, 0.0]])),
            Edge(
                "nearly the same",
                ([[1.0, 0.0], [4.0, 0.0]], [[1.0, 2.0**-20], [1.0, 2.0**-60]]),
                [2.0**-41, 2.0**-121],
                ([[0.0, -(2.0**-20)], [0.0, -(2.0**-62)]], [[-(2.0**-40), 2.0**-20], [-(2.0**-120), 2.0**-60]]),
            ),
        ),
    ),
]
