"""What the losses within a batch have in common: where the rest of the batch is, and similarities."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxloss._core import checks, stable
from jaxloss._core.devices import gathered, require_tracked_axis
from jaxloss._core.directions import dots, unit
from jaxloss._core.precision import promote, upcast
from jaxloss._core.reduction import fill, reduce
from jaxloss._core.remat import as_one


class Batch:
    """Checked embeddings `[examples, features]`, of which `axis_name` says that other devices have more.

    `embeddings` holds those of this device with zeros where they are dropped, `keep` which of them are kept (`None`:
    all), and `everyone` gives what all devices have, in their order.
    """

    def __init__(self, fn: str, where: Any, axis_name: Any, /, **embeddings: Any) -> None:
        self.fn, self.over = fn, axis_name
        if axis_name is not None:
            require_tracked_axis(fn, axis_name)
        (first, x), *others = embeddings.items()
        x = _matrix(fn, first, x)
        others = [checks.same_shape(fn, arg, checks.floating(fn, arg, v), x.shape, first) for arg, v in others]
        self.size, self.keep = x.shape[0], None
        if where is not None:
            self.keep = checks.broadcast(fn, "where", checks.mask(fn, "where", where), (self.size,), "examples")
        self.embeddings = [self.kept(x) for x in (x, *others)]

    def kept(self, x: Array) -> Array:
        return x if self.keep is None else fill(self.keep.reshape(-1, *(1,) * (x.ndim - 1)), x)

    def everyone(self, x: Array) -> Array:
        """In float32 at least, as cotangents are added up over the devices."""
        if self.over is None:
            return gathered(x)
        return lax.all_gather(upcast(x) if jnp.issubdtype(x.dtype, jnp.floating) else x, self.over, tiled=True)

    def everyone_kept(self) -> Array | None:
        return None if self.keep is None else self.everyone(self.keep)

    def own(self, x: Array) -> Array:
        """What belongs to the examples here."""
        return x if self.over is None else lax.dynamic_slice_in_dim(x, self.places()[0], self.size)

    def places(self) -> Array:
        """Where the examples of this device stand among all."""
        first = 0 if self.over is None else self.size * lax.axis_index(self.over)
        return first + jnp.arange(self.size)

    def labels(self, labels: Any) -> Array:
        """Of groups: any real numbers, of which only equality counts."""
        given = checks.number(self.fn, "labels", labels)
        if jnp.issubdtype(given.dtype, jnp.floating):
            given = checks.no_gradient(self.fn, "labels", given)
        return checks.same_shape(self.fn, "labels", given, (self.size,), "examples")

    def groups(self, labels: Any) -> Callable[[], tuple[Array, Array]]:
        """A function that says which of all examples are positives of each example here, and which are negatives.

        It is called within the rule of the losses, as the answer, of the size of all pairs, is not to be kept.
        """
        labels = self.labels(labels)
        all_labels, all_kept = self.everyone(labels), self.everyone_kept()

        def pairs() -> tuple[Array, Array]:
            same = jnp.expand_dims(labels, 1) == jnp.expand_dims(all_labels, 0)
            others = jnp.expand_dims(self.places(), 1) != jnp.arange(same.shape[1])[None]
            if self.keep is not None and all_kept is not None:
                others &= jnp.expand_dims(self.keep, 1) & jnp.expand_dims(all_kept, 0)
            return others & same, others & ~same

        return pairs

    def losses(self, rule: Callable[..., Array], *operands: Any) -> Array:
        """`rule(*operands)`, one loss for each example here."""
        if self.size == 0:
            return jnp.zeros(0, promote(*self.embeddings)[0].dtype)
        # What is kept for the backward pass are the embeddings as they came; XLA finds again what it still has.
        return jax.checkpoint(rule, prevent_cse=False)(*operands)

    def reduce(self, losses: Array, weights: Any, reduction: str, where: Array | None = None) -> Array:
        over = None if reduction == "none" else self.over
        keep = self.keep if where is None else where
        return reduce(losses, where=keep, weights=weights, reduction=reduction, axis_name=over, fn=self.fn)


def _matrix(fn: str, arg: str, value: Any) -> Array:
    x = checks.floating(fn, arg, value)
    if x.ndim != 2:
        raise ValueError(f"{fn}: {arg} must have the shape [examples, features], got {x.shape}; use jax.vmap for more")
    return x


def positive_number(fn: str, arg: str, value: Any) -> Array:
    """A scalar option, learned or not."""
    checks.in_range(fn, arg, value, 0, math.inf, open_low=True)
    return checks.scalar(fn, arg, value)


def similarities(u: Array, v: Array, temperature: Array, normalize: bool = True) -> Array:
    """Of each row of `u` with each of `v`: the cosine, or the dot product, divided by the temperature."""
    u, v = (unit(x) if normalize else x for x in promote(u, v))
    return dots(u, v) / temperature.astype(u.dtype)


class SumExp(NamedTuple):
    """The sum of exp over some of each row: `factor` times the exponential of `top`, the largest of them."""

    top: Array
    factor: Array
    some: Array  # is there anything in the sum; else the others are any finite numbers

    @classmethod
    def of(cls, z: Array, kept: Array) -> SumExp:
        some = jnp.any(kept, 1)
        stats = stable.row_stats((z, kept | ~some[:, None]), 1, lambda x: jnp.where(x[1], x[0], -jnp.inf))
        return cls(stats.max, 1 + stats.rest, some)


def log1p_exp(x: Array, factor: Array) -> Array:
    """log(1 + factor exp(x)), to all digits of x."""
    far = x > 40
    near = jnp.log1p(factor * jnp.exp(jnp.where(far, 0, x)))
    return jnp.where(far, x + jnp.log(factor + jnp.exp(-jnp.where(far, x, 40))), near)


def softplus(x: Array) -> Array:
    return as_one(stable.softplus, x)
