"""Two views of a batch, without negatives: what keeps features from collapsing is a statistic of the batch.

>>> import jax, jax.numpy as jnp
>>> x = jnp.array([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
>>> print(barlow_twins_loss(x, 3 * x + 7), barlow_twins_loss(x, -x))  # correlations of 1 and of -1
0.0 8.0
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.ad_checkpoint import checkpoint_name

from jaxloss._contrastive.arguments import Batch
from jaxloss._core import checks
from jaxloss._core.api import loss
from jaxloss._core.directions import dots, unit
from jaxloss._core.precision import promote
from jaxloss._core.typing import Array, ArrayLike, Bool, Float


@loss()
def barlow_twins_loss(
    first_embeddings: Float[ArrayLike, "examples features"],
    second_embeddings: Float[ArrayLike, "examples features"],
    *,
    off_diagonal_weight: float | Array = 5e-3,
    where: Bool[ArrayLike, "examples"] | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> Float[Array, ""]:
    r"""Barlow Twins: $\sum_i (1 - C_{ii})^2 + \lambda \sum_{i \ne j} C_{ij}^2$ of two views of a batch.

    $C_{ij}$ is the correlation over the batch of feature $i$ of the first view and feature $j$ of the second. Features
    count in any unit: nothing is added to a variance. $1 - C_{ii}$ keeps its digits where two views nearly agree.

    Args:
      first_embeddings: `[examples, features]`. A feature that is constant over the batch has correlation 0 with all,
        and gradient 0.
      second_embeddings: likewise; row $i$ is of the same example.
      off_diagonal_weight: $\lambda \ge 0$, a number or a scalar array; the authors' code has 0.0051.
      where: examples to keep, `[examples]`. What is dropped adds 0 to value and gradient, even if NaN.
      axis_name: inside `jax.shard_map`, the mesh axes that split the examples: correlations are over the whole batch,
        as are gradients.

    Returns:
      A scalar; at least float32. For a single example it is the number of features, with zero gradient; for none, 0.

    Raises:
      TypeError: embeddings are not floating-point, or `where` is not boolean.
      ValueError: shapes do not fit, `off_diagonal_weight` is negative, `axis_name` is no axis here, or belongs to
        `shard_map(check_vma=False)`, where gradients would be multiplied.

    Reference: Zbontar et al., "Barlow Twins: Self-Supervised Learning via Redundancy Reduction" (2021), eq. 1 and 2.

    >>> x = jnp.array([[1.0, 1.0], [-1.0, -1.0]])  # two features that say the same
    >>> print(barlow_twins_loss(x, x, off_diagonal_weight=0.25))
    0.5
    """
    fn = "barlow_twins_loss"
    batch = Batch(fn, where, axis_name, first_embeddings=first_embeddings, second_embeddings=second_embeddings)
    weight = _weight(fn, "off_diagonal_weight", off_diagonal_weight)

    def rule(x: Array, y: Array, weight: Array) -> Array:
        u, v = (unit(_centred(batch, z), 0, batch.over) for z in promote(x, y))
        u_some, v_some = (_total(batch, jnp.sum(jnp.square(z), 0)) > 0.5 for z in (u, v))
        # 1 - u v = |u - v|^2 / 2 for two directions.
        gaps = 0.5 * _total(batch, jnp.sum(jnp.square(u - v), 0))
        gaps = jnp.where(u_some & v_some, gaps, 1 + 0 * gaps)  # and NaN stays
        correlations = _total(batch, dots(u.T, v.T))
        return jnp.sum(jnp.square(gaps)) + weight.astype(u.dtype) * _off_diagonal(correlations)

    return _of_batch(batch, rule, *batch.embeddings, weight)


@loss()
def vicreg_loss(
    first_embeddings: Float[ArrayLike, "examples features"],
    second_embeddings: Float[ArrayLike, "examples features"],
    *,
    invariance_weight: float | Array = 25.0,
    variance_weight: float | Array = 25.0,
    covariance_weight: float | Array = 1.0,
    target_deviation: float | Array = 1.0,
    eps: float | Array = 1e-4,
    where: Bool[ArrayLike, "examples"] | None = None,
    axis_name: str | tuple[str, ...] | None = None,
) -> Float[Array, ""]:
    r"""VICReg: $\lambda\,s(x, y) + \mu\,(v(x) + v(y)) + \nu\,(c(x) + c(y))$ of two views of a batch.

    With $n$ examples and $d$ features, $s = \frac1{nd}\sum_{bj}(x_{bj} - y_{bj})^2$ is the invariance,
    $v = \frac1d\sum_j\max(0, \gamma - \sqrt{C_{jj} + \epsilon})$ the variance and
    $c = \frac1d\sum_{i \ne j}C_{ij}^2$ the covariance, where $C$ is the covariance matrix over the batch, with $n - 1$.
    This is the paper's algorithm 1. Its eq. 5 does not divide by $d$ in $s$, which is $\lambda d$ here; the authors'
    code halves $v$, which is $\mu / 2$ here.

    Args:
      first_embeddings: $x$, `[examples, features]`.
      second_embeddings: $y$, likewise; row $b$ is of the same example.
      invariance_weight: $\lambda \ge 0$; like the others a number or a scalar array.
      variance_weight: $\mu \ge 0$.
      covariance_weight: $\nu \ge 0$.
      target_deviation: $\gamma$, what the standard deviation of a feature should be at least.
      eps: $\epsilon \ge 0$; with 0 a constant feature has gradient 0.
      where: examples to keep, `[examples]`. What is dropped adds 0 to value and gradient, even if NaN.
      axis_name: inside `jax.shard_map`, the mesh axes that split the examples: statistics are over the whole batch, as
        are gradients.

    Returns:
      A scalar; at least float32. A single example has variance 0; without any the loss is 0.

    Raises:
      TypeError: embeddings are not floating-point, or `where` is not boolean.
      ValueError: shapes do not fit, an option is out of its range, `axis_name` is no axis here, or belongs to
        `shard_map(check_vma=False)`, where gradients would be multiplied.

    Reference: Bardes, Ponce, LeCun, "VICReg: Variance-Invariance-Covariance Regularization for Self-Supervised
    Learning" (2022), algorithm 1.

    >>> x = jnp.array([[1.0, 1.0], [-1.0, -1.0]])  # deviations above 1, and a covariance of 2
    >>> print(vicreg_loss(x, x))  # (2 * 2^2 / 2) of each view
    8.0
    """
    fn = "vicreg_loss"
    batch = Batch(fn, where, axis_name, first_embeddings=first_embeddings, second_embeddings=second_embeddings)
    options = {
        "invariance_weight": invariance_weight,
        "variance_weight": variance_weight,
        "covariance_weight": covariance_weight,
        "target_deviation": target_deviation,
        "eps": eps,
    }
    given = [_weight(fn, arg, value) for arg, value in options.items()]

    def rule(x: Array, y: Array, *options: Array) -> Array:
        x, y = promote(x, y)
        invariance, variance, covariance, deviation, eps = (v.astype(x.dtype) for v in options)
        count, features = _count(batch, x.dtype), x.shape[1]
        freedom = jnp.maximum(count - 1, 1)
        total = invariance * _total(batch, jnp.sum(jnp.square(x - y))) / (jnp.maximum(count, 1) * features)
        for z in (x, y):
            c = _centred(batch, z)
            squares = _total(batch, jnp.sum(jnp.square(c), 0)) / freedom + eps
            deviations = jnp.where(squares == 0, 0, jnp.sqrt(jnp.where(squares == 0, 1, squares)))
            total += variance * jnp.sum(jnp.maximum(deviation - deviations, 0)) / features
            total += covariance * _off_diagonal(_total(batch, dots(c.T, c.T)) / freedom) / features
        return total

    return _of_batch(batch, rule, *batch.embeddings, *given)


def _weight(fn: str, arg: str, value: Any) -> Array:
    return checks.scalar(fn, arg, checks.in_range(fn, arg, value, 0, math.inf))


def _of_batch(batch: Batch, rule: Callable[..., Array], *operands: Any) -> Array:
    """A statistic of the batch; 0 where it is empty. What is kept is the operands, and what devices told each other."""
    (x, *_) = promote(*batch.embeddings)
    if x.size == 0:
        return jnp.zeros((), x.dtype)
    told = jax.checkpoint_policies.save_only_these_names("told")
    value = jax.checkpoint(rule, prevent_cse=False, policy=told)(*operands)
    return jnp.where(_count(batch, x.dtype) == 0, 0, value)


def _total(batch: Batch, x: Array) -> Array:
    return x if batch.over is None else checkpoint_name(lax.psum(x, batch.over), "told")


def _count(batch: Batch, dtype: Any) -> Array:
    if batch.keep is None:
        devices = 1 if batch.over is None else lax.axis_size(batch.over)
        return jnp.asarray(batch.size * devices, dtype)
    return _total(batch, jnp.sum(batch.keep, dtype=jnp.int32)).astype(dtype)


def _centred(batch: Batch, x: Array) -> Array:
    """Minus the mean over the batch, with 0 for dropped examples.

    The largest entry of a feature goes first, so that a constant feature is exactly 0.
    """
    keep = None if batch.keep is None else batch.keep[:, None]
    x = x - _largest(batch, x if keep is None else jnp.where(keep, x, -jnp.inf))
    x = x if keep is None else jnp.where(keep, x, 0)
    x = x - _total(batch, jnp.sum(x, 0, keepdims=True)) / jnp.maximum(_count(batch, x.dtype), 1)
    return x if keep is None else jnp.where(keep, x, 0)


def _largest(batch: Batch, x: Array) -> Array:
    top = lax.stop_gradient(jnp.max(x, 0, keepdims=True))
    top = top if batch.over is None else lax.pmax(top, batch.over)
    return jnp.where(jnp.isinf(top), 0, top)


@functools.partial(jax.checkpoint, prevent_cse=False)
def _off_diagonal(c: Array) -> Array:
    """The sum of the squares beside the diagonal."""
    return jnp.sum(jnp.where(jnp.eye(len(c), dtype=bool), 0, jnp.square(c)))
