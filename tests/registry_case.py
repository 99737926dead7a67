"""What a case of the registry is, and how its arguments are made."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from registry_formulas import EXACT, FLOAT64, Maths

INF, NAN = np.inf, np.nan
HUGE = float(np.finfo(np.float32).max)  # an infinite slope that a weight of 0 must make 0
Maker = Callable[[np.random.Generator, tuple[int, ...]], list[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Edge:
    """Arguments where a careless formula fails, and what must come out: `finite`, or the exact value and gradients."""

    name: str
    args: tuple[Any, ...]
    value: Any = "finite"
    gradients: tuple[Any, ...] | str = "finite"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Case:
    """A loss, how to make arguments for it, and what it must be.

    `make(rng, shape)` returns arguments in float64 (labels in int32), `shape` being that of the predictions. `options`
    are non-default option sets by name; an entry that is a function is called like `make`. `accurate(rng, shape,
    scale)` makes arguments at which the result must be right to a few ULP elementwise.
    """

    fn: Callable[..., Any]
    formula: Callable[..., Any]
    make: Maker
    # "elementwise", "tokens" (last axis: time), "axis" (consumes an axis), "frames" (consumes frames and classes),
    # "batch" (one value for each example, which depends on the others) or "total" (one scalar)
    kind: str
    name: str = ""  # that of the function, and after a space what it is given
    shape: tuple[int, ...] = (8, 5)
    shapes: Mapping[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)  # of single option sets
    makers: Mapping[str, Maker] = dataclasses.field(default_factory=dict)  # likewise
    options: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    edges: tuple[Edge, ...] = ()
    optax: str | None = None
    nonnegative: bool = True
    zero: Maker | None = None  # arguments at which the loss is 0
    accurate: Callable[[np.random.Generator, tuple[int, ...], float], list[np.ndarray]] | None = None
    scales: tuple[float, ...] = (1e-3, 1.0, 30.0, 1e3)
    temporaries: tuple[float, float] = (0.0, 0.0)  # XLA's on the CPU, float32 and bfloat16, in sizes of the prediction
    conditioned: float = INF  # from this scale on, an error counts against what the last bit of the arguments decides

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", self.fn.__name__)

    def __repr__(self) -> str:
        return self.name

    def arguments(
        self, dtype: Any = np.float32, options: str = "default", shape: tuple[int, ...] | None = None
    ) -> list[np.ndarray]:
        make = self.makers.get(options, self.make)
        return cast(make(np.random.default_rng(0), shape or self.shapes.get(options, self.shape)), dtype)

    def option_set(self, name: str, shape: tuple[int, ...] | None = None) -> dict[str, Any]:
        rng, shape = np.random.default_rng(1), shape or self.shapes.get(name, self.shape)
        values = self.options[name] if name != "default" else {}
        made = {k: v(rng, shape) if callable(v) else v for k, v in values.items()}
        return {k: cast([v], np.float32)[0] if isinstance(v, np.ndarray) else v for k, v in made.items()}

    def reference(self, *args: Any, maths: Maths = FLOAT64, **options: Any) -> Any:
        """The formula, at float64 NumPy arguments or in as many digits as `maths` has."""
        given = [lift(maths, a) for a in args]
        return self.formula(maths, *given, **{k: lift(maths, v) for k, v in options.items()})

    def exact(self, *args: Any, **options: Any) -> Any:
        return self.reference(*args, maths=EXACT, **options)


def cast(args: list[np.ndarray], dtype: Any) -> list[np.ndarray]:
    return [np.asarray(a).astype(dtype) if np.asarray(a).dtype.kind == "f" else np.asarray(a) for a in args]


def lift(maths: Maths, x: Any) -> Any:
    """Floating arrays and numbers become `maths`' own; integers, masks, axes and `None` stay."""
    if isinstance(x, float) or (hasattr(x, "dtype") and x.dtype.kind not in "iub" and np.ndim(x) >= 0):
        return maths.number(x)
    return x


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> list[np.ndarray]:
    return [rng.standard_normal(shape), rng.standard_normal(shape)]


def scaled(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> list[np.ndarray]:
    return [scale * x for x in normal(rng, shape)]


def equal_pair(rng: np.random.Generator, shape: tuple[int, ...]) -> list[np.ndarray]:
    x = rng.standard_normal(shape)
    return [x, x.copy()]
