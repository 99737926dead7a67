"""The case of ordinal regression, with its cutpoints as an option."""

from __future__ import annotations

from typing import Any

import numpy as np
from registry_case import INF, NAN, Case, Edge
from registry_formulas import Maths, weighted
from registry_regression import component_weights, kept

import jaxloss

RNG = np.random.Generator
Shape = tuple[int, ...]
CUTPOINTS = np.array([-1.5, -0.25, 0.5, 2.0], np.float32)


def cumulative_link_loss(
    predictions: Any,
    labels: Any,
    *,
    cutpoints: Any = CUTPOINTS,
    where: Any = None,
    weights: Any = None,
    reduction: Any = "none",
) -> Any:
    """With cutpoints of five classes: these have neither the shape of the predictions nor that of the labels."""
    options = {"where": where, "weights": weights, "reduction": reduction}
    return jaxloss.cumulative_link_loss(predictions, labels, cutpoints, **options)


def logistic(m: Maths, x: Any) -> Any:
    return 1 / (1 + m.exp(-x))


def formula(m: Maths, x: Any, y: Any, cutpoints: Any = CUTPOINTS, **given: Any) -> Any:
    """The difference of two logistic functions, on that side of 0 where both are small."""
    y = m.xp.broadcast_to(m.xp.asarray(y), np.shape(x))
    cuts = [m.number(c)[()] for c in cutpoints]
    low, high = 0 * x, 0 * x
    for k, cut in enumerate(cuts):
        low, high = m.where(y == k + 1, cut - x, low), m.where(y == k, cut - x, high)
    a, b = m.where(low > 0, -high, low), m.where(low > 0, -low, high)
    between = logistic(m, b) - logistic(m, a)
    probability = m.where(y == 0, logistic(m, high), m.where(y == len(cuts), logistic(m, -low), between))
    losses = -m.log(probability)
    return weighted(m, losses, **given)


def ordered(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [2 * rng.standard_normal(shape), rng.integers(0, 5, shape).astype(np.int32)]


def ordered_at(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    x, y = ordered(rng, shape)
    return [scale * x, y]


def shared_labels(rng: RNG, shape: Shape) -> list[np.ndarray]:
    x, y = ordered(rng, shape)
    return [x, y[0].astype(np.uint8)]


def right_ends(rng: RNG, shape: Shape) -> list[np.ndarray]:
    y = rng.integers(0, 2, shape)
    return [600.0 * y - 300, (4 * y).astype(np.int32)]


def two_classes(rng: RNG, shape: Shape) -> list[np.ndarray]:
    x, y = ordered(rng, shape)
    return [x, y % 2]


def increasing(count: int) -> Any:
    return lambda rng, shape: np.cumsum(rng.uniform(0.3, 1.0, count)) - 1


def at(*cutpoints: float) -> dict[str, Any]:
    return {"cutpoints": cutpoints}


CASES = [
    Case(
        cumulative_link_loss,
        formula,
        ordered,
        "elementwise",
        options={
            "cutpoints": {"cutpoints": increasing(4)},
            "two classes": {"cutpoints": increasing(1)},
            "broadcast labels": {},
            "everything": {"cutpoints": increasing(6), "where": kept, "weights": component_weights},
        },
        makers={"broadcast labels": shared_labels, "two classes": two_classes},
        edges=(
            Edge("between", ([0.0], [1]), [-np.log(np.tanh(0.5))], ([0.0],), at(-1.0, 1.0)),
            Edge("narrow", ([0.0], [1]), [np.log(4) - np.log(2e-30)], ([0.0],), at(-1e-30, 1e-30)),
            Edge("right by far", ([-80.0, 80.0], [0, 1]), [1.8048513878454153e-35] * 2, "finite", at(0.0)),
            Edge("wrong by far", ([1e4, -1e4], [0, 2]), [1e4 + 1] * 2, ([1.0, -1.0],), at(-1.0, 1.0)),
            Edge("middle, wrong by far", ([1e4], [1]), [1e4 - 1 - np.log1p(-np.exp(-2))], ([1.0],), at(-1.0, 1.0)),
            Edge("infinite", ([INF, -INF, INF], [2, 0, 1]), [0.0, 0.0, INF], ([0.0, 0.0, 1.0],), at(-1.0, 1.0)),
            Edge("no room", ([0.0], [1]), [INF], ([0.0],), at(0.0, 0.0)),
            Edge("no order", ([0.0], [1]), [NAN], "any", at(1.0, 0.0)),
            Edge("out of range", ([0.0, 0.0], [-1, 3]), [NAN, NAN], ([NAN, NAN],), at(0.0, 1.0)),
            Edge("nan", ([NAN, NAN], [0, 1]), [NAN, NAN], ([NAN, NAN],)),
        ),
        zero=right_ends,
        accurate=ordered_at,
        scales=(1e-3, 1.0, 10.0, 1e3),
        conditioned=0.0,
    )
]
