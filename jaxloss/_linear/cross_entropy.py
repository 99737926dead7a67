"""The cross-entropy of `hidden @ kernel`, and what else is known of each token, without the logits in memory.

>>> import jax, jax.numpy as jnp
>>> hidden, kernel = jnp.array([[1.0, 2.0], [0.0, 1.0]]), jnp.array([[1.0, 0.0, 2.0], [0.0, 1.0, 1.0]])
>>> labels = jnp.array([2, 1])
>>> print(linear_cross_entropy(hidden, kernel, labels))
0.5159204
>>> print(linear_log_probs(hidden, kernel, labels).round(4))
[-0.1698 -0.862 ]
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from jaxloss._core import checks
from jaxloss._core.api import loss
from jaxloss._core.reduction import REDUCTIONS, coefficients, reduce
from jaxloss._core.softmax import Wanted
from jaxloss._core.typing import Array, ArrayLike, Bool, Float, Integer, Num, Reduction
from jaxloss._linear.arguments import Problem, head, permuted
from jaxloss._linear.rules import Mix, mixed, weighted_total

Layout: TypeAlias = Literal["dv", "vd"]
Method: TypeAlias = Literal["auto", "dense", "fast", "lean"]


@loss(arrays=3)
def linear_cross_entropy(
    hidden: Float[ArrayLike, "*tokens D"],
    kernel: Float[ArrayLike, "..."],
    labels: Num[ArrayLike, "..."],
    *,
    bias: Float[ArrayLike, "V"] | None = None,
    kernel_layout: Layout = "dv",
    where: Bool[ArrayLike, "..."] | None = None,
    weights: Num[ArrayLike, "..."] | None = None,
    ignore_index: int | None = None,
    class_weights: Num[ArrayLike, "V"] | None = None,
    label_smoothing: float | Array = 0.0,
    z_loss: float | Array = 0.0,
    logit_softcap: float | Array | None = None,
    temperature: float | Array = 1.0,
    reduction: Reduction = "mean",
    axis_name: str | tuple[str, ...] | None = None,
    num_classes: int | None = None,
    method: Method = "auto",
    chunk_size: int | None = None,
    memory_budget: int | None = None,
) -> Float[Array, "..."]:
    r"""Cross-entropy of the logits $x = hW + b$, which are never whole in memory: $c_y\,(\mathrm{lse}(x) - x_y)$.

    The value, gradient and options are those of `softmax_cross_entropy_with_integer_labels` on `hidden @ kernel`, or of
    `softmax_cross_entropy` for dense labels, with logits in float32 whatever the dtype of the operands. Tiles of the
    logits, a chunk of tokens times a block of the vocabulary, are made, used and dropped:

    - `"fast"` makes the gradient in the forward pass, if there is one to make: three matrix products, the fewest
      possible. For `"mean"` and `"sum"`.
    - `"lean"` makes each tile again in the backward pass: four products and the least memory, for any reduction.
    - `"dense"` keeps the logits: for problems that fit the budget.

    Args:
      hidden: $h$, `[*tokens, D]`, float32 or half precision.
      kernel: $W$, `[D, V]`, or `[V, D]` with `kernel_layout="vd"` (a tied embedding); the dtype of `hidden`.
      labels: class indices `[*tokens]` in [0, V), outside of which loss and gradient of the token are NaN; or weights
        of the classes, floating-point `[*tokens, V]`.
      bias: $b$, `[V]`.
      kernel_layout: `"dv"` or `"vd"`.
      where: tokens to keep, broadcast to `[*tokens]`. What is dropped adds 0 to value and gradient, even if NaN, and
        chunks of which nothing is kept are not computed, if labels are class indices.
      weights: multiply the losses of the tokens, broadcast likewise.
      ignore_index: tokens with this label are dropped.
      class_weights: $c$, `[V]`.
      label_smoothing: in [0, 1], spread over all classes.
      z_loss: weight of the squared log-normaliser.
      logit_softcap: $s$, to use $s\tanh(x/s)$ for $x$.
      temperature: $T$, to use $x/T$ for $x$ (before the softcap).
      reduction: `"mean"`, `"sum"` or `"none"` over the tokens; see `jaxloss.reduce`. In micro-batches, whose gradients
        are added up: `"sum"`, over the number of tokens that are kept in all of them.
      axis_name: inside `jax.shard_map`, the mesh axes that split the vocabulary. Kernel, bias, `class_weights` and
        dense labels are those of this device's classes, integer labels count all of them, and every device of the axes
        has the same hidden states. Neither logits nor kernel are gathered.
      num_classes: V, if the kernel (of all devices together) has columns beyond it as padding.
      method: `"auto"`, `"dense"`, `"fast"` or `"lean"`. Under `jit` over several devices XLA divides the logits of
        `"dense"`, which is what `"auto"` is there; the others raise: `jaxloss.sharded` divides the chunks.
      chunk_size: tokens in a chunk, instead of what the budget gives.
      memory_budget: bytes for the logits at hand; by default those of the kernel, at least 64 MiB, and for `"fast"` at
        least twice those of the kernel in float32.

    Returns:
      A scalar, or one loss for each token; at least float32. Gradients have the dtype of their argument and are added
      up in float32.

    Raises:
      TypeError: hidden or kernel are not floating-point or differ in dtype; `where` is not boolean;
        `num_classes`, `chunk_size` or `memory_budget` is not an int.
      ValueError: a shape does not fit, an option is out of its range, an unknown layout, method or reduction, a budget
        below one row, `"fast"` without a reduction, `axis_name` that is no axis here or of
        `shard_map(check_vma=False)`, `"fast"` or `"lean"` under `jit` over several devices.

    Reference: Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models" (2025), for the problem; Hsu et
    al., "Liger Kernel" (2024), for the gradient in the forward pass.

    >>> hidden, kernel = jnp.ones((4, 8)), jnp.zeros((8, 100))
    >>> print(linear_cross_entropy(hidden, kernel, jnp.arange(4)))  # log(100)
    4.6051702
    """
    fn = "linear_cross_entropy"
    checks.choice(fn, "reduction", reduction, REDUCTIONS)
    alpha = checks.in_range(fn, "label_smoothing", label_smoothing, 0, 1)
    z = checks.in_range(fn, "z_loss", z_loss, 0, jnp.inf)
    given = head(fn, hidden, kernel, bias, kernel_layout, axis_name, num_classes)
    p = Problem(fn, given, labels, where, ignore_index, class_weights, logit_softcap, temperature)
    wanted = Wanted(1, spread=not checks.is_zero(alpha), lse=not checks.is_zero(z), over=axis_name)
    how, sizes = p.choose(reduction != "none", method, chunk_size, memory_budget)
    keep = None if p.keep is None else p.keep.reshape(given.batch)
    for name, option in (("label_smoothing", alpha), ("z_loss", z)):
        checks.scalar(fn, name, option)
    options = {"where": keep, "weights": weights, "reduction": reduction, "fn": fn}
    mix = _mix(p, alpha, z)
    if how != "fast":
        losses = mixed(p.statistics(wanted, how, sizes), mix).reshape(given.batch)
        return reduce(losses, **options)
    each = coefficients(given.batch, p.dtype, **options).reshape(p.n)
    x, tokens, order, back = p.in_order()
    mix = jax.tree.map(lambda m: m * each, mix)
    if order is not None and back is not None:
        mix = jax.tree.map(lambda m: permuted(m, order, back), mix)
    return weighted_total(p.plan(wanted, sizes), x, tokens, mix)


def _mix(p: Problem, alpha: Any, z: Any) -> Mix:
    """What the statistics of each token are multiplied by in its loss."""
    one = jnp.ones(p.n, p.dtype)
    of_label = p.class_weight_of_labels()
    cross = one if of_label is None else of_label
    square = None if checks.is_zero(z) else one * jnp.asarray(z).astype(p.dtype)
    if checks.is_zero(alpha):
        return Mix(cross, None, square)
    alpha = jnp.asarray(alpha).astype(p.dtype)
    return Mix((1 - alpha) * cross, one * (alpha / p.head.total), square)


@loss(arrays=3)
def linear_log_probs(
    hidden: Float[ArrayLike, "*tokens D"],
    kernel: Float[ArrayLike, "..."],
    labels: Integer[ArrayLike, "*tokens"],
    *,
    bias: Float[ArrayLike, "V"] | None = None,
    kernel_layout: Layout = "dv",
    where: Bool[ArrayLike, "..."] | None = None,
    ignore_index: int | None = None,
    logit_softcap: float | Array | None = None,
    temperature: float | Array = 1.0,
    axis_name: str | tuple[str, ...] | None = None,
    num_classes: int | None = None,
    method: Method = "lean",
    chunk_size: int | None = None,
    memory_budget: int | None = None,
) -> Float[Array, "*tokens"]:
    r"""Log-probability of each token, $x_y - \mathrm{lse}(x)$ with $x = hW + b$: what preference losses are made of.

    Args:
      hidden: see `linear_cross_entropy`, as for all that follows.
      kernel: `[D, V]` or `[V, D]`.
      labels: the tokens, class indices `[*tokens]`.
      bias: `[V]`.
      kernel_layout: `"dv"` or `"vd"`.
      where: tokens to keep; the others have log-probability 0 and no gradient.
      ignore_index: tokens with this label are dropped likewise.
      logit_softcap: $s$, to use $s\tanh(x/s)$ for $x$.
      temperature: $T$, to use $x/T$ for $x$.
      axis_name: the mesh axes that split the vocabulary.
      num_classes: V, if the kernel has padding beyond it.
      method: `"lean"`, `"dense"` or `"auto"`.
      chunk_size: tokens in a chunk.
      memory_budget: bytes for the logits at hand.

    Returns:
      `[*tokens]`, at most 0, at least float32.

    Raises:
      TypeError: see `linear_cross_entropy`.
      ValueError: likewise.

    Reference: Rafailov et al., "Direct Preference Optimization" (2023), for their use.

    >>> print(linear_log_probs(jnp.ones((2, 8)), jnp.zeros((8, 100)), jnp.array([3, 5])))  # -log(100)
    [-4.6051702 -4.6051702]
    """
    fn = "linear_log_probs"
    given = head(fn, hidden, kernel, bias, kernel_layout, axis_name, num_classes)
    p = Problem(fn, given, checks.labels(fn, "labels", labels), where, ignore_index, None, logit_softcap, temperature)
    cross = p.statistics(Wanted(1, over=axis_name), *p.choose(False, method, chunk_size, memory_budget)).cross
    keep = None if p.keep is None else p.keep.reshape(given.batch)
    return -reduce(cross.reshape(given.batch), where=keep, reduction="none", fn=fn)  # type: ignore[union-attr]


class LinearStatistics(NamedTuple):
    """What is known of the distribution of each token, in the shape of the tokens."""

    log_normalizer: Array
    entropy: Array
    argmax: Array  # the most probable class
    log_probs: Array | None  # of the labels
    accuracy: Array | None  # 1 where the label is the most probable class, 0 elsewhere


@loss(arrays=3)
def linear_statistics(
    hidden: Float[ArrayLike, "*tokens D"],
    kernel: Float[ArrayLike, "..."],
    labels: Integer[ArrayLike, "*tokens"] | None = None,
    *,
    bias: Float[ArrayLike, "V"] | None = None,
    kernel_layout: Layout = "dv",
    where: Bool[ArrayLike, "..."] | None = None,
    ignore_index: int | None = None,
    logit_softcap: float | Array | None = None,
    temperature: float | Array = 1.0,
    axis_name: str | tuple[str, ...] | None = None,
    num_classes: int | None = None,
    method: Method = "lean",
    chunk_size: int | None = None,
    memory_budget: int | None = None,
) -> LinearStatistics:
    r"""What is known of each token from one pass over the vocabulary, its log-normaliser, entropy and accuracy.

    $\mathrm{lse}(x) = \log\sum_k e^{x_k}$, $H = -\sum_k p_k \log p_k$ with $p = \mathrm{softmax}(x)$,
    $\mathrm{argmax}_k x_k$, $\log p_y$, and whether $y$ is the argmax, for $x = hW + b$. All but argmax and accuracy
    have gradients.

    Args:
      hidden: see `linear_cross_entropy`, as for all that follows.
      kernel: `[D, V]` or `[V, D]`.
      labels: class indices `[*tokens]`, or `None`.
      bias: `[V]`.
      kernel_layout: `"dv"` or `"vd"`.
      where: tokens to keep; the others get 0 (argmax: -1), with no gradient.
      ignore_index: tokens with this label are dropped likewise.
      logit_softcap: $s$, to use $s\tanh(x/s)$ for $x$.
      temperature: $T$, to use $x/T$ for $x$.
      axis_name: the mesh axes that split the vocabulary.
      num_classes: V, if the kernel has padding beyond it.
      method: `"lean"`, `"dense"` or `"auto"`.
      chunk_size: tokens in a chunk.
      memory_budget: bytes for the logits at hand.

    Returns:
      `LinearStatistics(log_normalizer, entropy, argmax, log_probs, accuracy)`, each `[*tokens]`, at least float32.
      `argmax` is int32, the first of equal classes, counted over all devices, and -1 where a logit is NaN. `log_probs`
      and `accuracy` are `None` without labels.

    Raises:
      TypeError: see `linear_cross_entropy`.
      ValueError: likewise.

    Reference: Shannon, "A Mathematical Theory of Communication" (1948).

    >>> found = linear_statistics(jnp.ones((1, 8)), jnp.zeros((8, 100)))  # both log(100)
    >>> print(found.log_normalizer, found.entropy)
    [4.6051702] [4.6051702]
    """
    fn = "linear_statistics"
    given = head(fn, hidden, kernel, bias, kernel_layout, axis_name, num_classes)
    labels = None if labels is None else checks.labels(fn, "labels", labels)
    p = Problem(fn, given, labels, where, ignore_index, None, logit_softcap, temperature)
    wanted = Wanted(1, lse=True, entropy=True, over=axis_name, argmax=True)
    found = p.statistics(wanted, *p.choose(False, method, chunk_size, memory_budget))
    keep = None if p.keep is None else p.keep.reshape(given.batch)

    def kept(values: Any) -> Array:
        return reduce(values.reshape(given.batch), where=keep, reduction="none", fn=fn)

    assert found.argmax is not None
    argmax = found.argmax if p.keep is None else jnp.where(p.keep, found.argmax, -1)
    log_probs = accuracy = None
    if p.labels is not None:
        y = p.labels.astype(jnp.int64 if p.labels.dtype.itemsize == 8 else jnp.int32)
        right = (argmax >= 0) & (y == argmax.astype(y.dtype))
        log_probs, accuracy = -kept(found.cross), kept(right.astype(p.dtype))
    return LinearStatistics(kept(found.lse), kept(found.entropy), argmax.reshape(given.batch), log_probs, accuracy)
