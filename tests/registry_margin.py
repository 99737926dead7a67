"""Cases of the losses with a margin."""

from __future__ import annotations

from typing import Any

import margin_formulas as formulas
import numpy as np
from registry_case import INF, NAN, Case, Edge
from registry_classes import (
    classes_kept,
    integer,
    integer_first_axis,
    integer_two_axes,
    labels_of,
    right_labels,
    rows_kept,
)
from registry_regression import columns_kept, component_weights, kept

import jaxloss

RNG = np.random.Generator
Shape = tuple[int, ...]


def signed(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [2 * rng.standard_normal(shape), np.where(rng.random(shape) < 0.5, 1.0, -1.0)]


def signed_integers(rng: RNG, shape: Shape) -> list[np.ndarray]:
    x, y = signed(rng, shape)
    return [x, y[:, :1].astype(np.int8)]


def right_signs(rng: RNG, shape: Shape) -> list[np.ndarray]:
    y = signed(rng, shape)[1]
    return [300.0 * y, y]


def signed_at(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    x, y = signed(rng, shape)
    return [scale * x, y]


def decisions(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [rng.standard_normal(shape), rng.uniform(0.2, 0.8, shape)]


def hard_decisions(rng: RNG, shape: Shape) -> list[np.ndarray]:
    x, y = decisions(rng, shape)
    return [x, (y[:, :1] > 0.5).astype(np.int8)]


def float_decisions(rng: RNG, shape: Shape) -> list[np.ndarray]:
    x, y = decisions(rng, shape)
    return [x, (y > 0.5).astype(float)]


def right_decisions(rng: RNG, shape: Shape) -> list[np.ndarray]:
    x, y = right_signs(rng, shape)
    return [x, (y > 0).astype(float)]


def decided_at(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    x, y = signed_at(rng, shape, scale)
    return [x, (y > 0).astype(float)]


def scores_at(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    return [scale * rng.standard_normal(shape), labels_of(shape)]


def _decision(fn: Any, make: Any, shared: Any, more: dict[str, Any] | None = None, **given: Any) -> Case:
    options = {
        "everything": {"where": kept, "weights": component_weights},
        "columns kept": {"where": columns_kept},
        "broadcast labels": {},
    }
    makers = {"broadcast labels": shared, **(more or {})}
    options |= {name: {} for name in more or {}}
    return Case(fn, getattr(formulas, fn.__name__), make, "elementwise", options=options, makers=makers, **given)


def _signed(fn: Any, **given: Any) -> Case:
    optax = fn.__name__ if fn.__name__ in ("hinge_loss", "perceptron_loss") else None
    common: dict[str, Any] = {"zero": right_signs, "accurate": signed_at, "optax": optax}
    return _decision(fn, signed, signed_integers, **common, **given)


def _rows(fn: Any, edges: tuple[Edge, ...], **given: Any) -> Case:
    options = {
        "classes kept": {"where": classes_kept},
        "rows kept": {"where": rows_kept},
        "first axis": {"axis": 0},
        "two axes": {"axis": (0, 2)},
        "everything": {"ignore_index": 1},
    }
    shared = (
        Edge("out of range", ([[1.0, 2.0]], [2]), [NAN], ([[NAN, NAN]],)),
        Edge("ignored", ([[NAN, 2.0]], [-100]), [0.0], ([[0.0, 0.0]],), {"ignore_index": -100}),
        Edge("label ruled out", ([[0.0, -INF]], [1]), [INF], "any"),
        Edge("one class", ([[3.0]], [0]), [0.0], ([[0.0]],)),
        Edge("nan", ([[NAN, 0.0]], [1]), [NAN], "any"),
    )
    return Case(
        fn,
        getattr(formulas, fn.__name__),
        integer,
        "axis",
        options=options,
        shapes={"first axis": (5, 8), "two axes": (2, 4, 3)},
        makers={"first axis": integer_first_axis, "two axes": integer_two_axes},
        edges=(*shared, *edges),
        zero=right_labels,
        accurate=scores_at,
        scales=(1e-3, 1.0, 30.0),
        conditioned=0.0,
        optax=fn.__name__,
        **given,
    )


RULED_OUT = (
    Edge("label ruled out", ([[-INF, 1.0]], [0]), [INF], ([[-1.0, 1.0]],)),
    Edge("others ruled out", ([[1.0, -INF]], [0]), [0.0], ([[0.0, 0.0]],)),
    Edge("nothing left", ([[-INF, -INF]], [0]), [INF], ([[0.0, 0.0]],)),
)

CASES = [
    _signed(
        jaxloss.hinge_loss,
        edges=(
            Edge("at the margin", ([1.0, -1.0], [1.0, -1.0]), [0.0, 0.0], ([0.0, 0.0], [0.0, 0.0])),
            Edge("infinite", ([INF, -INF], [1.0, 1.0]), [0.0, INF], ([0.0, -1.0], "any")),
            Edge("nan", ([NAN], [1.0]), [NAN], "any"),
        ),
    ),
    _signed(
        jaxloss.squared_hinge_loss,
        edges=(
            Edge("at the margin", ([1.0, -1.0], [1.0, -1.0]), [0.0, 0.0], ([0.0, 0.0], [0.0, 0.0])),
            Edge("infinite", ([INF, -INF], [1.0, 1.0]), [0.0, INF], "any"),
        ),
    ),
    _signed(
        jaxloss.perceptron_loss,
        edges=(
            Edge("undecided", ([0.0, 0.0], [1.0, -1.0]), [0.0, 0.0], ([-1.0, 1.0], [0.0, 0.0])),
            Edge("infinite", ([INF, -INF], [1.0, 1.0]), [0.0, INF], ([0.0, -1.0], "any")),
        ),
    ),
    _signed(
        jaxloss.soft_margin_loss,
        edges=(
            Edge("saturated", ([80.0, 1e4, -1e4], [1.0, 1.0, 1.0]), [1.8048513878454153e-35, 0.0, 1e4]),
            Edge("infinite", ([INF, -INF], [1.0, 1.0]), [0.0, INF], ([0.0, -1.0], "any")),
            Edge("half a label", ([2.0], [0.5]), [0.31326168751822286], ([-0.13447071068499756], "any")),
        ),
    ),
    _decision(
        jaxloss.sparsemax_loss,
        float_decisions,
        hard_decisions,
        more={"soft labels": decisions},
        edges=(
            Edge("by 1", ([1.0, -1.0], [1.0, 0.0]), [0.0, 0.0], ([0.0, 0.0], "any")),
            Edge("wrong by far", ([1e4, -1e4], [0.0, 1.0]), [1e4, 1e4], ([1.0, -1.0], "any")),
            Edge("infinite", ([INF, -INF], [1.0, 1.0]), [0.0, INF], ([0.0, -1.0], "any")),
        ),
        zero=right_decisions,
        accurate=decided_at,
        optax="sparsemax_loss",
    ),
    _rows(
        jaxloss.multiclass_hinge_loss,
        (
            Edge("ahead by 1", ([[2.0, 0.5]], [0]), [0.0], ([[0.0, 0.0]],)),
            Edge("behind", ([[0.0, 1e4]], [0]), [1e4 + 1], ([[-1.0, 1.0]],)),
            *RULED_OUT,
        ),
    ),
    _rows(
        jaxloss.multiclass_perceptron_loss,
        (Edge("behind", ([[0.0, 1e4]], [0]), [1e4], ([[-1.0, 1.0]],)), *RULED_OUT),
    ),
    _rows(
        jaxloss.multiclass_sparsemax_loss,
        (
            Edge("ahead by 1", ([[2.0, 0.5]], [0]), [0.0], ([[0.0, 0.0]],)),
            Edge("behind", ([[0.0, 1e4]], [0]), [1e4], ([[-1.0, 1.0]],)),
            Edge("all equal", ([[7.0] * 4], [0]), [0.375], ([[-0.75, 0.25, 0.25, 0.25]],)),
            Edge("far ahead", ([[3e7, 0.0, -1.0]], [0]), [0.0], ([[0.0, 0.0, 0.0]],)),
            Edge("large and equal", ([[1e7, 1e7, 1e7 - 1]], [0]), [0.25], ([[-0.5, 0.5, 0.0]],)),
            Edge(
                "large and close",
                ([[1000.95001220703125, 1000.0, 995.0]], [0]),
                [0.024993896484375**2],
                ([[-0.024993896484375, 0.024993896484375, 0.0]],),
            ),
            Edge("infinite", ([[INF, 0.0, 1.0]], [0]), [0.0], ([[0.0, 0.0, 0.0]],)),
            Edge("two infinite", ([[INF, INF, 1.0]], [1]), [0.25], ([[0.5, -0.5, 0.0]],)),
            Edge("nothing left", ([[-INF, -INF]], [0]), [NAN], "any"),
        ),
    ),
]
