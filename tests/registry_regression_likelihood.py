"""Cases of the likelihoods and scores on the real line."""

from __future__ import annotations

import math
from typing import Any

import formulas_regression as formulas
import numpy as np
from registry_case import INF, NAN, Case, Edge
from registry_regression import columns_kept, component_weights, kept
from registry_regression_differences import each_component

import jaxloss

TINY = 2.0**-84
_INSIDE = math.erf(0.5**0.5)  # how much of a normal distribution is within one deviation
_AT_ONE = math.exp(-0.5) * (2 / np.pi) ** 0.5 - np.pi**-0.5  # the slope in the scale, where that is the error

RNG = np.random.Generator
Shape = tuple[int, ...]


def spread(rng: RNG, shape: Shape) -> list[np.ndarray]:
    return [rng.standard_normal(shape), rng.standard_normal(shape), rng.uniform(0.3, 2.0, shape)]


def log_spread(rng: RNG, shape: Shape) -> list[np.ndarray]:
    x, y, v = spread(rng, shape)
    return [x, y, np.log(v)]


def shared_spread(rng: RNG, shape: Shape) -> list[np.ndarray]:
    x, y, v = spread(rng, shape)
    return [x, y[0], v[:, :1]]


def spread_at(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    """Errors of `scale` standard deviations."""
    x, y, v = spread(rng, shape)
    return [scale * x, scale * y, v]


def in_units(rng: RNG, shape: Shape, scale: float) -> list[np.ndarray]:
    """Errors and deviations of this size."""
    return [scale * a for a in spread(rng, shape)]


def common(**everything: Any) -> dict[str, Any]:
    return {
        "everything": {"where": kept, "weights": component_weights, **everything},
        "columns kept": {"where": columns_kept},
        "broadcast targets": {},
    }


def likelihood(name: str, options: dict[str, Any], everything: dict[str, Any], **given: Any) -> Case:
    return Case(
        getattr(jaxloss, name),
        getattr(formulas, name),
        spread,
        "elementwise",
        options={**common(**everything), **options},
        makers={"broadcast targets": shared_spread, "log": log_spread},
        nonnegative=False,
        accurate=spread_at,
        scales=(1e-3, 1.0, 30.0, 1e3),
        conditioned=0.0,  # the logarithm and the rest may cancel
        **given,
    )


NOT_A_NUMBER = Edge("nan", ([NAN, 0.0, 0.0], [0.0, NAN, 0.0], [1.0, 1.0, NAN]), [NAN] * 3, ([NAN] * 3,) * 3)

CASES = [
    likelihood(
        "gaussian_nll",
        {"full": {"full": True}, "log": {"log_variance": True, "full": True}},
        {"full": True},
        edges=(
            NOT_A_NUMBER,
            Edge(
                "huge",
                ([1e15, 1e-20], [0.0, 0.0], [1e20, 1e-30]),
                [5e9, np.log(1e-30) / 2],
                ([1e-5, 1e10], "any", "any"),
            ),
            Edge(
                "no variance", ([1.0, 0.0], [0.0, 0.0], [0.0, 0.0]), [INF, -INF], ([INF, 0.0], [-INF, 0.0], [-INF, INF])
            ),
            Edge("infinite variance", ([1.0], [0.0], [INF]), [INF], ([0.0], [0.0], [0.0])),
            Edge("infinite error", ([-INF], [0.0], [1.0]), [INF], ([-INF], [INF], [-INF])),
            Edge("negative variance", ([1.0], [0.0], [-1.0]), [NAN]),
            Edge(
                "log",
                ([1e-20, 0.0, 2.0], [0.0] * 3, [-80.0, -200.0, 2.0]),
                [-40 + 5e-41 * np.exp(80), -100.0, 1 + 2 * np.exp(-2.0)],
                ([1e-20 * np.exp(80), 0.0, 2 * np.exp(-2.0)], "any", "any"),
                {"log_variance": True},
            ),
        ),
    ),
    likelihood(
        "laplace_nll",
        {"full": {"full": True}},
        {"full": True},
        edges=(
            NOT_A_NUMBER,
            Edge("huge", ([1e30], [0.0], [1e20]), [1e10], ([1e-20], [-1e-20], [-1e-10])),
            Edge("no scale", ([1.0, 0.0], [0.0, 0.0], [0.0, 0.0]), [INF, -INF], ([INF, 0.0], [-INF, 0.0], [-INF, INF])),
            Edge("no error", ([2.0], [2.0], [1.0]), [0.0], ([0.0], [0.0], [1.0])),
            Edge("infinite error", ([-INF], [0.0], [1.0]), [INF], ([-1.0], [1.0], [-INF])),
            Edge("negative scale", ([1.0], [0.0], [-1.0]), [NAN]),
        ),
    ),
    likelihood(
        "student_t_nll",
        {
            "full": {"full": True},
            "cauchy": {"dof": 1.0, "full": True},
            "large": {"dof": 50.0},
            "dofs": {"dof": each_component(0.5, 20.0)},
        },
        {"dof": each_component(0.5, 20.0), "full": True},
        edges=(
            NOT_A_NUMBER,
            Edge(
                "huge",
                ([1e30, 1e-30], [0.0, 0.0], [1.0, 1e-30]),
                [2 * np.log(1e30) + np.log(np.pi) / 2, np.log(2) - np.log(1e30) + np.log(np.pi) / 2],
                ([2e-30, 1e30], "any", ([1 - 2.0, 0.0])),
                {"dof": 1.0},
            ),
            Edge("no scale", ([1.0, 0.0], [0.0, 0.0], [0.0, 0.0]), [INF, -INF], ([5.0, 0.0], [-5.0, 0.0], [-INF, INF])),
            Edge(
                "gaussian",
                ([2.0], [0.0], [1.0]),
                [2 + np.log(2) / 2],
                ([2.0], [-2.0], [-3.0]),
                {"dof": INF},
            ),
            Edge("infinite error", ([-INF], [0.0], [1.0]), [INF], ([0.0], [0.0], [-4.0])),
            Edge("negative scale", ([1.0], [0.0], [-1.0]), [NAN]),
        ),
    ),
    Case(
        jaxloss.gaussian_crps,
        formulas.gaussian_crps,
        spread,
        "elementwise",
        options=common(),
        makers={"broadcast targets": shared_spread},
        accurate=in_units,
        scales=(1e-20, 1e-3, 1.0, 1e20),
        conditioned=0.0,
        edges=(
            NOT_A_NUMBER,
            Edge(
                "no scale",
                ([1.0, -1e30, 0.0], [0.0] * 3, [0.0] * 3),
                [1.0, 1e30, 0.0],
                ([1.0, -1.0, 0.0], "any", "any"),
            ),
            Edge(
                "certain",
                ([1.0, 0.0], [0.0, 0.0], [1e-30, 1e-30]),
                [1.0, (2**0.5 - 1) / np.pi**0.5 * 1e-30],
                ([1.0, 0.0], [-1.0, 0.0], [-(np.pi**-0.5), (2**0.5 - 1) / np.pi**0.5]),
            ),
            Edge("infinite error", ([-INF], [0.0], [1.0]), [INF], ([-1.0], [1.0], [-(np.pi**-0.5)])),
            Edge("all tiny", ([TINY], [0.0], [TINY]), [TINY * (_INSIDE + _AT_ONE)], ([_INSIDE], [-_INSIDE], [_AT_ONE])),
        ),
    ),
]
