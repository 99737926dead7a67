"""Any loss of single tokens on `hidden @ kernel`, a chunk of the logits at a time.

>>> import jax, jax.numpy as jnp
>>> hidden, kernel = jnp.array([[1.0, 2.0], [0.0, 1.0]]), jnp.array([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]])
>>> def brier(logits, labels):
...     return jnp.sum((jax.nn.softmax(logits) - jax.nn.one_hot(labels, 3)) ** 2, -1)
>>> print(linear_loss(brier, hidden, kernel, jnp.array([2, 1]), reduction="none").round(4))
[0.0392 0.5362]
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from jaxloss._core import checks, stable
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.devices import vary_like
from jaxloss._core.partitioning import divided, undivided
from jaxloss._core.precision import compute_dtype
from jaxloss._core.reduction import REDUCTIONS, coefficients, reduce
from jaxloss._core.typing import Array, ArrayLike, Bool, Float, Num, Reduction
from jaxloss._linear.arguments import Head, head, permuted
from jaxloss._linear.chunks import (
    Chunks,
    Factors,
    Operands,
    closed_over,
    differ_as_losses,
    dtype_of_losses,
    each,
    total,
)
from jaxloss._linear.plan import rows_in_chunk

Layout: TypeAlias = Literal["dv", "vd"]


def linear_loss(
    loss_fn: Callable[..., Array],
    hidden: Float[ArrayLike, "*tokens D"],
    kernel: Float[ArrayLike, "..."],
    *targets: Num[ArrayLike, "*tokens ..."],
    bias: Float[ArrayLike, "V"] | None = None,
    kernel_layout: Layout = "dv",
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "mean",
    chunk_size: int | None = None,
    memory_budget: int | None = None,
) -> Float[Array, "..."]:
    r"""Any loss $\ell(x, t)$ of single tokens on the logits $x = hW + b$, which are never whole in memory.

    `loss_fn(logits, *targets)` sees a chunk of C tokens, logits `[C, V]` in float32 and targets `[C, ...]`, and gives
    `[C]` losses: one of this library with its options bound (`functools.partial`, a `lambda`), or your own. For
    `"mean"` and `"sum"` the gradient is made in the forward pass, if there is one to make: three matrix products, the
    fewest possible. For `"none"` each chunk is made again in the backward pass: four products. Call it under `jax.jit`.

    Args:
      loss_fn: the loss. Each of its results may depend on its own token only. Arrays that it closes over are
        differentiated; one with a row for each token must be one of the targets, since tokens come in chunks.
      hidden: $h$, `[*tokens, D]`, float32 or half precision.
      kernel: $W$, `[D, V]`, or `[V, D]` with `kernel_layout="vd"` (a tied embedding); the dtype of `hidden`.
      targets: arrays `[*tokens, ...]`, any number of them; floating ones are differentiated.
      bias: $b$, `[V]`.
      kernel_layout: `"dv"` or `"vd"`.
      where: tokens to keep, broadcast to `[*tokens]`. What is dropped adds 0 to value and gradient, even if NaN;
        `loss_fn` does not see it, and chunks of which nothing is kept are not computed.
      weights: multiply the losses of the tokens, broadcast likewise.
      reduction: `"mean"`, `"sum"` or `"none"` over the tokens; see `jaxloss.reduce`. In micro-batches, whose gradients
        are added up: `"sum"`, over the number of tokens that are kept in all of them.
      chunk_size: tokens in a chunk, instead of what the budget gives.
      memory_budget: bytes for the logits at hand and their gradient, beside what `loss_fn` needs; by default those of
        the kernel, at least 64 MiB. Where XLA divides the program between devices there is one chunk, itself divided.

    Returns:
      A scalar, or one loss for each token; at least float32. Gradients have the dtype of their argument and are added
      up in float32.

    Raises:
      TypeError: `loss_fn` is no function; hidden or kernel are not floating-point or differ in dtype; `where` is not
        boolean; `chunk_size` or `memory_budget` is not an int.
      ValueError: a shape does not fit, `loss_fn` does not give one loss for each token or takes one number of tokens
        only, an unknown layout or reduction, a budget below one row, chunks under `jit` over several devices.

    Reference: Hsu et al., "Liger Kernel" (2024), for the gradient in the forward pass.

    >>> import functools, jaxloss
    >>> loss = functools.partial(jaxloss.softmax_cross_entropy_with_integer_labels, label_smoothing=0.1)
    >>> print(linear_loss(loss, jnp.ones((4, 8)), jnp.zeros((8, 100)), jnp.arange(4)))  # log(100)
    4.6051702
    """
    fn = "linear_loss"
    checks.function(fn, "loss_fn", loss_fn)
    given = head(fn, hidden, kernel, bias, kernel_layout)
    arrays = tuple(_per_token(fn, f"targets[{i}]", t, given.batch) for i, t in enumerate(targets))
    return reduced(fn, loss_fn, [given], arrays, where, weights, reduction, chunk_size, memory_budget)


def _per_token(fn: str, arg: str, value: Any, batch: tuple[int, ...]) -> Array:
    t = checks.array(fn, arg, value)
    if t.shape[: len(batch)] != batch:
        raise ValueError(f"{fn}: {arg} must have the shape {batch} of the tokens in front, got {t.shape}")
    return t.reshape(math.prod(batch), *t.shape[len(batch) :])


def reduced(
    fn: str,
    loss_fn: Callable[..., Array],
    heads: Sequence[Head],
    targets: tuple[Array, ...],
    where: Any,
    weights: Any,
    reduction: str,
    chunk_size: int | None,
    memory_budget: int | None,
) -> Array:
    """The reduced loss `loss_fn(*logits, *targets)` of heads that have the same tokens."""
    checks.choice(fn, "reduction", reduction, REDUCTIONS)
    batch, n = heads[0].batch, heads[0].hidden.shape[0]
    keep = None
    if where is not None:
        where = checks.broadcast(fn, "where", checks.mask(fn, "where", where), batch, "tokens")
        keep = where.reshape(n)
    options = {"where": where, "weights": weights, "reduction": reduction, "fn": fn}
    if n == 0:
        return reduce(jnp.zeros(batch, compute_dtype(heads[0].hidden)), **options)
    classes, kernel_bytes = sum(h.classes for h in heads), sum(h.kernel.nbytes for h in heads)
    size = rows_in_chunk(fn, n, classes, kernel_bytes, chunk_size, memory_budget)
    x = Operands(tuple(Factors(h.hidden, h.kernel, h.bias) for h in heads), targets)
    leaves = [leaf for leaf in (*jax.tree.leaves(x), keep) if leaf is not None]
    if chunk_size is None and divided(*leaves):
        size = n  # XLA divides one chunk by itself
    if size < n:
        first, *rest = x.heads
        first = first._replace(hidden=undivided(_remedy(fn), first.hidden, *leaves))
        x = x._replace(heads=(first, *rest))
    order, back = _kept_first(keep) if size < n else (None, None)
    # What is computed for a token differs between devices where anything about the token does.
    about = targets if keep is None else (*targets, keep)
    x = x._replace(heads=tuple(h._replace(hidden=vary_like(h.hidden, *about)) for h in x.heads))
    if keep is not None:
        x = x._replace(targets=tuple(vary_like(t, keep) for t in targets))
        kept = lambda a: _only_kept(a, keep, order, back)  # noqa: E731
        heads_of_kept = tuple(h._replace(hidden=kept(h.hidden)) for h in x.heads)
        x = x._replace(heads=heads_of_kept, targets=tuple(map(kept, x.targets)))
    in_order = keep if keep is None or order is None else keep[order]
    chunks, x = closed_over(fn, Chunks(loss_fn, tuple(h.layout for h in heads), size), x)
    if reduction == "none":
        losses = each(chunks, x, in_order)
        losses = losses if order is None or back is None else permuted(losses, back, order)
        return reduce(losses.reshape(batch), **options)
    factors = coefficients(batch, dtype_of_losses(chunks), **options).reshape(n)
    factors = factors if order is None or back is None else permuted(factors, order, back)
    if not differ_as_losses(chunks, x, in_order):
        return jnp.sum(stable.times(factors, each(chunks, x, in_order)))
    return total(chunks, x, in_order, factors)


def _kept_first(keep: Array | None) -> tuple[Array | None, Array | None]:
    """The order in which dropped tokens are last, and the way back."""
    if keep is None:
        return None, None
    order = jnp.argsort(~keep, stable=True)
    return order, jnp.argsort(order)


@custom_vjp
def _only_kept(x: Array, keep: Array, order: Array | None, back: Array | None) -> Array:
    """The tokens in order, with the first that is kept for each that is dropped: what the loss makes of it is dropped,
    but it is no NaN, nor a label that names no class."""
    if order is not None:
        return x[jnp.where(keep[order], order, order[0])]
    mine = keep.reshape(-1, *[1] * (x.ndim - 1))
    number = x.astype(jnp.uint8) if x.dtype == jnp.bool_ else x
    first = jnp.arange(len(keep)).reshape(mine.shape) == jnp.argmax(keep)
    # A sum, which XLA can divide between devices.
    row = jnp.sum(jnp.where(first, number, 0), 0, dtype=number.dtype, keepdims=True).astype(x.dtype)
    return jnp.where(mine, x, row)


def _only_kept_bwd(residuals: Any, g: Array) -> tuple[Array, None, None, None]:
    # Why a rule: autodiff of a gather is a scatter, and a dropped token has no gradient.
    keep, back = residuals
    g = g if back is None else g[back]
    return jnp.where(keep.reshape(-1, *[1] * (g.ndim - 1)), g, 0), None, None, None


_only_kept.defvjp(lambda x, keep, order, back: (_only_kept(x, keep, order, back), (keep, back)), _only_kept_bwd)


def _remedy(fn: str) -> str:
    return (
        f"{fn}: chunks under jit over several devices, where each of them would go through all chunks. Call it inside "
        "your own jax.shard_map over the tokens, or give a chunk_size of all tokens, which XLA divides by itself"
    )
