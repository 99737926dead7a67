"""Divergences of distributions that are given as (log-)probabilities.

`log_predictions` are logarithms, of which -inf is a probability of 0. A target of 0 adds nothing and has no gradient
into the prediction, whatever the prediction is.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import jax.numpy as jnp

from jaxloss._core import blocks, checks, stable
from jaxloss._core.api import loss
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.precision import cotangent, promote
from jaxloss._core.reduction import fill
from jaxloss._core.typing import Array, ArrayLike, Axis, Bool, Float, Num, Reduction
from jaxloss._divergence.arguments import over_classes


@loss()
def kl_divergence(
    log_predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."],
    axis: Axis | None = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    *,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Kullback-Leibler divergence of log-predictions from targets: $\sum_k t_k (\log t_k - \ell_k)$, $0 \log 0 = 0$.

    $\ell$ are the log-predictions. Neither side needs to sum to 1, so terms of both signs are added: the error is a
    few ULP of $\sum_k t_k (|\log t_k| + |\ell_k|)$, and of a smaller divergence fewer digits are left. Where the
    logits are at hand, `softmax_kl_divergence` keeps all of them.

    Args:
      log_predictions: $\ell$, any shape; `-inf` is a probability of 0.
      targets: $t \ge 0$, broadcast to the shape of the log-predictions. A target of 0 adds 0, even to `-inf`; a
        negative one gives NaN.
      axis: the axes of the classes, an int, a tuple of ints, or `None` for all.
      where: rows to keep, of the shape of the result, or else elements to keep, broadcast to the log-predictions. What
        is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the divergences, broadcast to their shape.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the log-predictions without `axis`, or a scalar; at least float32. `inf` where a target is positive
      and its prediction 0. The gradient with respect to a target of 0, in the limit `-inf`, is the lowest finite
      number, so that 0 times it stays 0: in a softmax that made the target, too.

    Raises:
      TypeError: log-predictions are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the log-predictions, a wrong axis or an unknown reduction.

    Reference: Kullback, Leibler, "On Information and Sufficiency" (1951).

    >>> print(kl_divergence(jnp.log(jnp.array([0.25, 0.75])), jnp.array([0.0, 1.0])))
    0.2876821
    """
    fn = "kl_divergence"
    return over_classes(
        fn,
        _forward_kl,
        ("log_predictions", log_predictions),
        ("targets", targets),
        axis,
        where,
        weights=weights,
        reduction=reduction,
    )


@loss()
def kl_divergence_with_log_targets(
    log_predictions: Float[ArrayLike, "*shape"],
    log_targets: Float[ArrayLike, "..."],
    axis: Axis | None = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    *,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Kullback-Leibler divergence of two log-distributions: $\sum_k e^{\tau_k} (\tau_k - \ell_k)$.

    $\ell$ are the log-predictions and $\tau$ the log-targets. Accuracy is that of `kl_divergence`; for log-softmax of
    logits use `softmax_kl_divergence` on the logits.

    Args:
      log_predictions: $\ell$, any shape; `-inf` is a probability of 0.
      log_targets: $\tau$, broadcast to the shape of the log-predictions. `-inf` adds 0 to value and gradient, even to a
        log-prediction of `-inf`.
      axis: the axes of the classes, an int, a tuple of ints, or `None` for all.
      where: rows to keep, of the shape of the result, or else elements to keep, broadcast to the log-predictions. What
        is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the divergences, broadcast to their shape.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the log-predictions without `axis`, or a scalar; at least float32. `inf` where a target is positive
      and its prediction 0.

    Raises:
      TypeError: an argument is not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the log-predictions, a wrong axis or an unknown reduction.

    Reference: Kullback, Leibler, "On Information and Sufficiency" (1951).

    >>> print(kl_divergence_with_log_targets(jnp.log(jnp.array([0.25, 0.75])), jnp.array([-jnp.inf, 0.0])))
    0.2876821
    """
    fn = "kl_divergence_with_log_targets"
    log_targets = checks.floating(fn, "log_targets", log_targets)
    return over_classes(
        fn,
        _log_kl,
        ("log_predictions", log_predictions),
        ("log_targets", log_targets),
        axis,
        where,
        weights=weights,
        reduction=reduction,
    )


@loss()
def generalized_kl_divergence(
    log_predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."],
    axis: Axis | None = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    *,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Generalized Kullback-Leibler divergence: $\sum_k t_k (\log t_k - \ell_k) - t_k + e^{\ell_k}$.

    The Bregman divergence of $t \log t - t$ between measures that need not sum to 1; for distributions it is
    `kl_divergence`. Every term is $t\,\phi(\ell - \log t) \ge 0$ with $\phi(d) = e^d - 1 - d$, and computed so: nothing
    cancels, and the result is never negative.

    Args:
      log_predictions: $\ell$, any shape; `-inf` is a prediction of 0.
      targets: $t \ge 0$, broadcast to the shape of the log-predictions. Where it is 0 the term is the prediction
        $e^\ell$; a negative one gives NaN.
      axis: the axes to add over, an int, a tuple of ints, or `None` for all.
      where: rows to keep, of the shape of the result, or else elements to keep, broadcast to the log-predictions. What
        is dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the divergences, broadcast to their shape.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the log-predictions without `axis`, or a scalar; at least float32. `inf` where a target is positive
      and its prediction 0. The gradient with respect to a target of 0, in the limit `-inf`, is the lowest finite
      number, so that 0 times it stays 0: in a softmax that made the target, too.

    Raises:
      TypeError: log-predictions are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the log-predictions, a wrong axis or an unknown reduction.

    Reference: Bregman, "The relaxation method of finding the common point of convex sets" (1967).

    >>> print(generalized_kl_divergence(jnp.log(jnp.array([2.0, 1.0])), jnp.array([1.0, 0.0])))
    1.3068528
    """
    fn = "generalized_kl_divergence"
    return over_classes(
        fn,
        _bregman_kl,
        ("log_predictions", log_predictions),
        ("targets", targets),
        axis,
        where,
        weights=weights,
        reduction=reduction,
    )


def convex_kl_divergence(
    log_predictions: Float[ArrayLike, "*shape"],
    targets: Num[ArrayLike, "..."],
    axis: Axis | None = -1,
    where: Bool[ArrayLike, "..."] | None = None,
    *,
    weights: Num[ArrayLike, "..."] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, "..."]:
    r"""Deprecated name of `generalized_kl_divergence`, $\sum_k t_k (\log t_k - \ell_k) - t_k + e^{\ell_k}$.

    Args:
      log_predictions: $\ell$, see `generalized_kl_divergence`.
      targets: $t$, likewise.
      axis: likewise.
      where: likewise.
      weights: likewise.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The generalized divergence, after a `DeprecationWarning`.

    Raises:
      TypeError: log-predictions are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the log-predictions, a wrong axis or an unknown reduction.

    Reference: Bregman, "The relaxation method of finding the common point of convex sets" (1967).

    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("ignore")
    ...     print(convex_kl_divergence(jnp.log(jnp.array([2.0, 1.0])), jnp.array([1.0, 0.0])))
    1.3068528
    """
    warnings.warn("convex_kl_divergence is deprecated; use generalized_kl_divergence", DeprecationWarning, stacklevel=2)
    return generalized_kl_divergence(log_predictions, targets, axis, where, weights=weights, reduction=reduction)


# The rules. What is dropped becomes a log-prediction of 0 and a target of 1, of value 0 and with finite slopes.


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def _forward_kl(axis: int, log_p: Array, target: Array, keep: Array | None) -> Array:
    def term(operands: tuple[Array, Array, Array | None]) -> Array:
        log_p, t = _kept(*operands)
        absent = t == 0
        log_p = jnp.where(absent & jnp.isinf(log_p), 0, log_p)  # 0 * inf is 0 here, while 0 * NaN stays NaN
        return t * (jnp.log(jnp.where(absent, 1, t)) - log_p)

    return stable.row_sum((log_p, target, keep), axis, term, in_lanes=True)


def _kept(log_p: Array, target: Array, keep: Array | None, neutral: float = 1.0) -> tuple[Array, ...]:
    return promote(fill(keep, log_p), fill(keep, target, neutral))


def _forward_kl_fwd(axis: int, *args: Any) -> tuple[Array, tuple[Any, ...]]:
    return _forward_kl(axis, *args), args


def _forward_kl_bwd(axis: int, residuals: tuple[Array, Array, Array | None], g: Array) -> tuple[Array | None, ...]:
    # Why a rule: autodiff of t * log(t) is NaN at a target of 0, and keeps the float32 log and difference.
    log_p, t = _kept(*residuals)
    return _cotangents(axis, residuals, g, -t, 1 - stable.finite(_log_ratio(log_p, t)))


def _cotangents(
    axis: int, residuals: tuple[Array, Array, Array | None], g: Array, to_log_p: Array, to_target: Array
) -> tuple[Array | None, ...]:
    log_p, target, keep = residuals
    g = jnp.expand_dims(g, axis)
    return cotangent(fill(keep, g * to_log_p), log_p), cotangent(fill(keep, g * to_target), target), None


def _log_ratio(log_p: Array, t: Array) -> Array:
    """log(p / t); for 0 / 0 it is -inf, from the divergence that is inf at every target but 0."""
    return jnp.where((t == 0) & (log_p == -jnp.inf), -jnp.inf, log_p - jnp.log(t))


_forward_kl.defvjp(_forward_kl_fwd, _forward_kl_bwd)


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def _log_kl(axis: int, log_p: Array, log_t: Array, keep: Array | None) -> Array:
    def term(operands: tuple[Array, Array, Array | None]) -> Array:
        t, log_ratio = _from_log_targets(*operands)
        return -t * log_ratio

    return stable.row_sum((log_p, log_t, keep), axis, term, in_lanes=True)


def _from_log_targets(log_p: Array, log_t: Array, keep: Array | None) -> tuple[Array, Array]:
    """The targets and log(p / t), which is 0 where the target is 0 and an infinite log-prediction does not count."""
    log_p, log_t = _kept(log_p, log_t, keep, 0)
    absent = log_t == -jnp.inf
    log_p = jnp.where(absent & jnp.isinf(log_p), 0, log_p)
    return jnp.exp(log_t), log_p - jnp.where(absent, 0, log_t)


def _log_kl_fwd(axis: int, *args: Any) -> tuple[Array, tuple[Any, ...]]:
    return _log_kl(axis, *args), args


def _log_kl_bwd(axis: int, residuals: tuple[Array, Array, Array | None], g: Array) -> tuple[Array | None, ...]:
    # Why a rule: autodiff is NaN at a log-target of -inf, and keeps the float32 target and difference.
    to_log_p = -_from_log_targets(*residuals)[0]
    t, log_ratio = _from_log_targets(*blocks.read_again(residuals))
    return _cotangents(axis, residuals, g, to_log_p, t * (1 - log_ratio))


_log_kl.defvjp(_log_kl_fwd, _log_kl_bwd)


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def _bregman_kl(axis: int, log_p: Array, target: Array, keep: Array | None) -> Array:
    def term(operands: tuple[Array, Array, Array | None]) -> Array:
        log_p, t = _kept(*operands)
        d = _log_ratio(log_p, t)
        near = jnp.abs(d) < 1
        close = t * stable.phi_near(jnp.where(near, d, 0))
        far = jnp.exp(log_p) - jnp.where(t == 0, 0, t * (1 + jnp.where(near, 0, jnp.minimum(d, 1e30))))
        both_zero = (t == 0) & (log_p == -jnp.inf)
        return jnp.where(both_zero, 0, jnp.where(near, close, far))

    return stable.row_sum((log_p, target, keep), axis, term, in_lanes=True)


def _bregman_kl_fwd(axis: int, *args: Any) -> tuple[Array, tuple[Any, ...]]:
    return _bregman_kl(axis, *args), args


def _bregman_kl_bwd(axis: int, residuals: tuple[Array, Array, Array | None], g: Array) -> tuple[Array | None, ...]:
    # Why a rule: as for `_forward_kl_bwd`.
    log_p, t = _kept(*residuals)
    return _cotangents(axis, residuals, g, jnp.exp(log_p) - t, -stable.finite(_log_ratio(log_p, t)))


_bregman_kl.defvjp(_bregman_kl_fwd, _bregman_kl_bwd)
