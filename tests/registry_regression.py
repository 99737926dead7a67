"""Cases of the regression and binary losses, and of the sums of tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
import registry_formulas as formulas
from registry_case import INF, NAN, Case, Edge, equal_pair, normal, scaled

import jaxloss


def tasks(rng: np.random.Generator, shape: tuple[int, ...]) -> list[np.ndarray]:
    """Two tasks, one with a loss for each element, and two weights, of which the first is for each component."""
    a, b = rng.uniform(0.1, 2.0, shape), rng.uniform(0.1, 2.0, ())
    return [a, b, rng.standard_normal(shape[-1:]), rng.standard_normal(())]


def weighted_tasks(a: Any, b: Any, u: Any, v: Any) -> Any:
    return jaxloss.weighted_sum({"a": a, "b": (b,)}, {"a": u, "b": (v,)})


def uncertain_tasks(a: Any, b: Any, s: Any, t: Any) -> Any:
    return jaxloss.uncertainty_weighted_sum([a, b], [s, t])


def binary(rng: np.random.Generator, shape: tuple[int, ...]) -> list[np.ndarray]:
    return [2 * rng.standard_normal(shape), rng.uniform(0, 1, shape)]


def decided(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> list[np.ndarray]:
    return [scale * rng.standard_normal(shape), (rng.random(shape) < 0.5).astype(float)]


def right_decisions(rng: np.random.Generator, shape: tuple[int, ...]) -> list[np.ndarray]:
    y = (rng.random(shape) < 0.5).astype(float)
    return [np.where(y > 0, 300.0, -300.0), y]


def pos_weights(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.uniform(0.5, 3.0, shape[-1:])


def kept(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    keep = rng.random(shape) < 0.6
    keep[0, 0] = True
    return keep


def columns_kept(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(shape[-1]) % 3 > 0


def component_weights(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return rng.uniform(0.5, 2.0, shape[-1:])


def broadcast_targets(rng: np.random.Generator, shape: tuple[int, ...]) -> list[np.ndarray]:
    x, y = normal(rng, shape)
    return [x, y[0]]


def only_predictions(rng: np.random.Generator, shape: tuple[int, ...]) -> list[np.ndarray]:
    return normal(rng, shape)[:1]


def broadcast_decisions(rng: np.random.Generator, shape: tuple[int, ...]) -> list[np.ndarray]:
    x, y = binary(rng, shape)
    return [x, (y[:, :1] > 0.5).astype(np.int8)]


_QUADRATIC: dict[str, Any] = {
    "options": {
        "everything": {"where": kept, "weights": component_weights},
        "columns kept": {"where": columns_kept},
        "broadcast targets": {},
        "no targets": {},
    },
    "makers": {"broadcast targets": broadcast_targets, "no targets": only_predictions},
    "make": normal,
    "kind": "elementwise",
    "zero": equal_pair,
    "accurate": scaled,
    "scales": (1e-6, 1.0, 1e6),
}


def _quadratic_edges(factor: float) -> tuple[Edge, ...]:
    return (
        Edge("equal", ([3e38, -1e-30, 0.0], [3e38, -1e-30, 0.0]), [0.0, 0.0, 0.0], ([0.0] * 3, [0.0] * 3)),
        Edge("overflow", ([1e30], [0.0]), [INF], ([2e30 * factor], [-2e30 * factor])),
        Edge("infinite", ([INF, -INF], [0.0, 0.0]), [INF, INF], ([INF, -INF], [-INF, INF])),
        Edge("nan", ([NAN], [0.0]), [NAN], ([NAN], [NAN])),
    )


CASES = [
    Case(
        jaxloss.squared_error, formulas.squared_error, optax="squared_error", edges=_quadratic_edges(1.0), **_QUADRATIC
    ),
    Case(jaxloss.l2_loss, formulas.l2_loss, optax="l2_loss", edges=_quadratic_edges(0.5), **_QUADRATIC),
    Case(weighted_tasks, formulas.weighted_sum, tasks, "total", "weighted_sum", nonnegative=False),
    Case(
        uncertain_tasks,
        formulas.uncertainty_weighted_sum,
        tasks,
        "total",
        "uncertainty_weighted_sum",
        nonnegative=False,
    ),
    Case(
        jaxloss.sigmoid_binary_cross_entropy,
        formulas.sigmoid_binary_cross_entropy,
        binary,
        "elementwise",
        options={
            "smoothed": {"label_smoothing": 0.1},
            "everything": {"label_smoothing": 0.2, "pos_weight": pos_weights},
            "weighted": {"where": kept, "weights": component_weights, "pos_weight": pos_weights},
            "broadcast decisions": {"pos_weight": pos_weights},
        },
        makers={"broadcast decisions": broadcast_decisions},
        edges=(
            Edge("agreeing infinity", ([INF, -INF], [1.0, 0.0]), [0.0, 0.0], ([0.0, 0.0], "any")),
            Edge("opposed infinity", ([INF, -INF], [0.0, 1.0]), [INF, INF], ([1.0, -1.0], "any")),
            Edge("soft label at infinity", ([INF], [0.5]), [INF], ([0.5], "any")),
            Edge(
                "saturated",
                ([1e4, -1e4, 80.0], [1.0, 0.0, 1.0]),
                [0.0, 0.0, 1.8048513878454153e-35],
                ([0.0, 0.0, -1.8048513878454153e-35], "any"),
            ),
            Edge("barely smoothed", ([60.0], [1.0]), [3e-5], ([5e-7], "any"), {"label_smoothing": 1e-6}),
            Edge("wrong by far", ([1e4, -1e4], [0.0, 1.0]), [1e4, 1e4], ([1.0, -1.0], "any")),
            Edge("nan", ([NAN], [1.0]), [NAN], ([NAN], "any")),
        ),
        optax="sigmoid_binary_cross_entropy",
        zero=right_decisions,
        accurate=decided,
    ),
]
