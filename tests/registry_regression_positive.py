"""Cases of the asymmetric losses, of the relative ones, and of the likelihoods of positive quantities and counts."""

from __future__ import annotations

from typing import Any

import formulas_regression as formulas
import numpy as np
from registry_case import INF, NAN, Case, Edge, equal_pair, scaled
from registry_regression import columns_kept, component_weights, kept
from registry_regression_differences import EQUAL, NOT_A_NUMBER, each_component, shared_targets, wide_apart

import jaxloss

RNG = np.random.Generator
Shape = tuple[int, ...]


def one_target(rng: RNG, shape: Shape) -> list[np.ndarray]:
    x, y = wide_apart(rng, shape)
    return [x, y[:, :1]]


def positive_pair(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [rng.uniform(0.1, 4.0, shape), rng.uniform(0.1, 4.0, shape)]


def positive_shared(rng: RNG, shape: Shape) -> list[np.ndarray]:
    x, y = positive_pair(rng, shape)
    return [x, y[0]]


def equal_positive(rng: RNG, shape: Shape) -> list[np.ndarray]:
    x = rng.uniform(0.1, 4.0, shape)
    return [x, x.copy()]


def nearly_equal(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    """Positive, and apart by the factor `1 + scale` or so."""
    y = np.exp(3 * rng.standard_normal(shape))
    return [y * (1 + scale * rng.uniform(0.5, 1.5, shape)), y]


def of_size(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    return [scale * rng.uniform(0.1, 1.0, shape), scale * rng.uniform(0.1, 1.0, shape)]


def common(**everything: Any) -> dict[str, Any]:
    return {
        "everything": {"where": kept, "weights": component_weights, **everything},
        "columns kept": {"where": columns_kept},
        "broadcast targets": {},
    }


def asymmetric(option: str) -> dict[str, Any]:
    return {
        "make": wide_apart,
        "kind": "elementwise",
        "options": {
            **common(**{option: each_component(0.1, 0.9)}),
            "one": {option: 0.9},
            "several": {option: (0.1, 0.25, 0.5, 0.75, 0.9)},
        },
        "makers": {"broadcast targets": shared_targets, "several": one_target},
        "shapes": {"several": (8, 5)},
        "zero": equal_pair,
        "accurate": scaled,
        "scales": (1e-6, 1.0, 1e6),
    }


SIDES = ([0.0, 2.0, INF], [2.0, 0.0, 0.0])
SHORT, LONG = ([1e30, 0.0], [0.0, 1e30])  # predictions

CASES = [
    Case(
        jaxloss.quantile_loss,
        formulas.quantile_loss,
        edges=(
            EQUAL,
            NOT_A_NUMBER,
            Edge("sides", SIDES, [0.5, 1.5, INF], ([-0.25, 0.75, 0.75], [0.25, -0.75, -0.75]), {"quantile": 0.25}),
            Edge("huge", (SHORT, LONG), [5e29, 5e29], ([0.5, -0.5], [-0.5, 0.5])),
        ),
        **asymmetric("quantile"),
    ),
    Case(
        jaxloss.expectile_loss,
        formulas.expectile_loss,
        edges=(
            EQUAL,
            NOT_A_NUMBER,
            Edge("sides", SIDES, [1.0, 3.0, INF], ([-1.0, 3.0, INF], [1.0, -3.0, -INF]), {"expectile": 0.25}),
            Edge("huge", (SHORT, LONG), [INF, INF], ([1e30, -1e30], [-1e30, 1e30])),
        ),
        **asymmetric("expectile"),
    ),
    Case(
        jaxloss.absolute_percentage_error,
        formulas.absolute_percentage_error,
        positive_pair,
        "elementwise",
        options={
            **common(epsilon=each_component(0.5, 2.0)),
            "epsilon": {"epsilon": 0.5},
            "signs": {"epsilon": 0.25},
        },
        makers={"broadcast targets": positive_shared, "signs": wide_apart},
        edges=(
            EQUAL,
            NOT_A_NUMBER,
            Edge("zero target", ([1.0, 0.0], [0.0, 0.0]), [2.0, 0.0], ([2.0, 0.0], [-2.0, 0.0]), {"epsilon": 0.5}),
            Edge("tiny", ([3e-30], [1e-30]), [2.0], ([1e30], [-3e30]), {"epsilon": 1e-35}),
            Edge("huge", ([1e30], [2e30]), [0.5], ([-5e-31], [2.5e-31])),
            Edge("negative target", ([1.0], [-2.0]), [1.5], ([0.5], [0.25])),
        ),
        zero=equal_pair,
        accurate=nearly_equal,
        scales=(1e-6, 1e-3, 1.0, 1e3),
    ),
    Case(
        jaxloss.squared_log_error,
        formulas.squared_log_error,
        positive_pair,
        "elementwise",
        options={**common(), "weighted": {"weights": component_weights}},
        makers={"broadcast targets": positive_shared},
        edges=(
            Edge("equal", ([3e38, 0.0, -0.5], [3e38, 0.0, -0.5]), [0.0] * 3, ([0.0] * 3, [0.0] * 3)),
            NOT_A_NUMBER,
            Edge("small", ([3e-30], [2e-30]), [0.0], ([2e-30], [-2e-30])),
            Edge("from nothing", ([0.0, -1.0], [-1.0, 0.0]), [INF, INF], ([INF, -INF], [-INF, INF])),
            Edge("infinite", ([INF], [0.0]), [INF], ([0.0], "any")),
            Edge("huge", ([1e30, 0.0], [0.0, 1e30]), [np.log(1e30) ** 2] * 2),
            Edge("out of the domain", ([-2.0, 0.0, -2.0], [0.0, -2.0, -2.0]), [NAN] * 3, ([NAN] * 3, [NAN] * 3)),
        ),
        zero=equal_positive,
        accurate=nearly_equal,
        scales=(1e-6, 1e-3, 1.0, 1e3, 1e6),
    ),
]
