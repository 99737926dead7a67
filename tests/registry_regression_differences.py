"""Cases of the regression losses that are functions of prediction minus target."""

from __future__ import annotations

from typing import Any

import formulas_regression as formulas
import numpy as np
from registry_case import INF, NAN, Case, Edge, equal_pair, normal, scaled
from registry_regression import (
    columns_kept,
    component_weights,
    kept,
    only_predictions,
)

import jaxloss


def wide_apart(rng: np.random.Generator, shape: tuple[int, ...]) -> list[np.ndarray]:
    return [3 * x for x in normal(rng, shape)]


def shared_targets(rng: np.random.Generator, shape: tuple[int, ...]) -> list[np.ndarray]:
    x, y = wide_apart(rng, shape)
    return [x, y[0]]


def each_component(low: float, high: float) -> Any:
    return lambda rng, shape: rng.uniform(low, high, shape[-1:])


def each_element(low: float, high: float) -> Any:
    return lambda rng, shape: rng.uniform(low, high, shape)


def difference(name: str, options: dict[str, Any], everything: dict[str, Any], **given: Any) -> Case:
    common = {
        "everything": {"where": kept, "weights": component_weights, **everything},
        "columns kept": {"where": columns_kept},
        "broadcast targets": {},
        "no targets": {},
    }
    return Case(
        getattr(jaxloss, name),
        getattr(formulas, name),
        given.pop("make", wide_apart),
        "elementwise",
        options={**common, **options},
        makers={"broadcast targets": shared_targets, "no targets": only_predictions},
        zero=equal_pair,
        accurate=scaled,
        **given,
    )


EQUAL = Edge("equal", ([3e38, -1e-30, 0.0], [3e38, -1e-30, 0.0]), [0.0, 0.0, 0.0], ([0.0] * 3, [0.0] * 3))
NOT_A_NUMBER = Edge("nan", ([NAN, 0.0], [0.0, NAN]), [NAN, NAN], ([NAN, NAN], [NAN, NAN]))
INFINITE = Edge("infinite", ([INF, -INF], [0.0, 0.0]), [INF, INF], ([1.0, -1.0], [-1.0, 1.0]))
LINEAR = (EQUAL, NOT_A_NUMBER, INFINITE)
HUGE = ([1e30, -1e30], [0.0, 0.0])
SIGNS = ([1.0, -1.0], [-1.0, 1.0])

CASES = [
    difference(
        "absolute_error", {}, {}, scales=(1e-6, 1.0, 1e6), edges=(*LINEAR, Edge("huge", HUGE, [1e30] * 2, SIGNS))
    ),
    difference(
        "huber_loss",
        {"delta": {"delta": 0.5}, "deltas": {"delta": each_component(0.5, 3.0)}},
        {"delta": each_component(0.5, 3.0)},
        optax="huber_loss",
        edges=(
            *LINEAR,
            Edge("huge", HUGE, [1e30] * 2, SIGNS),
            Edge("at the kink", ([2.0, -2.0], [0.0, 0.0]), [2.0, 2.0], ([2.0, -2.0], [-2.0, 2.0]), {"delta": 2.0}),
            Edge("no delta", ([2.0, 0.0], [0.0, 0.0]), [0.0, 0.0], ([0.0, 0.0],) * 2, {"delta": 0.0}),
            Edge("all quadratic", ([3.0], [0.0]), [4.5], ([3.0], [-3.0]), {"delta": INF}),
        ),
    ),
    difference(
        "smooth_l1_loss",
        {"beta": {"beta": 0.5}, "betas": {"beta": each_component(0.5, 3.0)}},
        {"beta": each_component(0.5, 3.0)},
        edges=(
            *LINEAR,
            Edge("huge", HUGE, [1e30] * 2, SIGNS),
            Edge("at the kink", ([2.0, -2.0], [0.0, 0.0]), [1.0, 1.0], SIGNS, {"beta": 2.0}),
            Edge(
                "absolute",
                ([2.0, -1e-30, 0.0], [0.0] * 3),
                [2.0, 1e-30, 0.0],
                ([1.0, -1.0, 0.0], [-1.0, 1.0, 0.0]),
                {"beta": 0.0},
            ),
            Edge("tiny beta", ([2.0, 0.0], [0.0] * 2), [2.0, 0.0], ([1.0, 0.0], [-1.0, 0.0]), {"beta": 1e-38}),
        ),
    ),
    difference(
        "epsilon_insensitive_loss",
        {"epsilon": {"epsilon": 0.5}, "epsilons": {"epsilon": each_component(0.5, 3.0)}},
        {"epsilon": each_component(0.5, 3.0)},
        edges=(
            *LINEAR,
            Edge("huge", HUGE, [1e30] * 2, SIGNS),
            Edge("at the kink", ([0.5, -0.5], [0.0, 0.0]), [0.0, 0.0], ([0.0, 0.0],) * 2, {"epsilon": 0.5}),
            Edge("absolute", ([2.0, 0.0], [0.0, 0.0]), [2.0, 0.0], ([1.0, 0.0], [-1.0, 0.0]), {"epsilon": 0.0}),
            Edge("all tolerated", ([2.0], [0.0]), [0.0], ([0.0], [0.0]), {"epsilon": INF}),
        ),
    ),
    difference(
        "log_cosh",
        {},
        {},
        optax="log_cosh",
        make=normal,
        scales=(1e-6, 1e-3, 1.0, 30.0, 1e6),
        edges=(
            *LINEAR,
            Edge("huge", HUGE, [1e30] * 2, SIGNS),
            Edge(
                "small",
                ([1e-6, -1e-4, 1e-15], [0.0] * 3),
                [5e-13, 4.9999999916666667e-09, 5e-31],
                ([1e-6, -9.9999999666666667e-05, 1e-15], [-1e-6, 9.9999999666666667e-05, -1e-15]),
            ),
            Edge("either side of one", ([0.99999, 1.00001], [0.0, 0.0]), [0.4337732, 0.4337884]),
        ),
    ),
    difference(
        "pseudo_huber_loss",
        {"delta": {"delta": 0.5}, "deltas": {"delta": each_component(0.5, 3.0)}},
        {"delta": each_component(0.5, 3.0)},
        scales=(1e-6, 1e-3, 1.0, 30.0, 1e6),
        edges=(
            *LINEAR,
            Edge("huge", HUGE, [1e30] * 2, SIGNS),
            Edge("huge of tiny", HUGE, [1.0] * 2, ([1e-30, -1e-30], [-1e-30, 1e-30]), {"delta": 1e-30}),
            Edge("small", ([1e-6, 1e-15], [0.0, 0.0]), [5e-13, 5e-31], ([1e-6, 1e-15], [-1e-6, -1e-15])),
            Edge("all quadratic", ([3.0], [0.0]), [4.5], ([3.0], [-3.0]), {"delta": INF}),
        ),
    ),
    difference(
        "robust_loss",
        {
            "between": {"alpha": 0.3, "scale": 0.5},
            "cauchy": {"alpha": 0.0},
            "geman": {"alpha": -2.0},
            "steep": {"alpha": 1.9, "scale": 2.0},
            "shapes": {"alpha": each_element(-4.0, 1.9), "scale": each_component(0.5, 2.0)},
        },
        {"alpha": each_component(-2.0, 1.9), "scale": each_component(0.5, 2.0)},
        scales=(1e-6, 1e-3, 1.0, 30.0, 1e3),
        edges=(
            *LINEAR,
            Edge("square", ([3.0, 0.0], [0.0, 0.0]), [4.5, 0.0], ([3.0, 0.0], [-3.0, 0.0]), {"alpha": 2.0}),
            Edge("cauchy", ([2.0, 0.0], [0.0, 0.0]), [np.log(3.0), 0.0], ([2 / 3, 0], [-2 / 3, 0]), {"alpha": 0.0}),
            Edge(
                "welsch",
                ([2.0, 1e-6, 1e30], [0.0] * 3),
                [1 - np.exp(-2.0), 5e-13, 1.0],
                ([2 * np.exp(-2.0), 1e-6, 0.0], [-2 * np.exp(-2.0), -1e-6, 0.0]),
                {"alpha": -INF},
            ),
            Edge("huge cauchy", ([1e30], [0.0]), [2 * np.log(1e30) - np.log(2)], "any", {"alpha": 0.0}),
            Edge("infinite geman", ([INF], [0.0]), [2.0], ([0.0], [0.0]), {"alpha": -2.0}),
            Edge("infinite square", ([-INF], [0.0]), [INF], ([-INF], [INF]), {"alpha": 2.0}),
        ),
    ),
]
