"""Divergence of diagonal Gaussians: the regulariser of a variational autoencoder."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxloss._core import blocks, checks, stable
from jaxloss._core.api import loss
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.devices import alike
from jaxloss._core.precision import cotangent, promote
from jaxloss._core.reduction import fill, reduce
from jaxloss._core.row_masks import class_axes, masks
from jaxloss._core.typing import Array, ArrayLike, Axis, Bool, Float, Num, Reduction


@loss(arrays=4)
def gaussian_kl(
    mean: Float[ArrayLike, "*shape"],
    log_variance: Float[ArrayLike, ...],
    prior_mean: Num[ArrayLike, ...] | None = None,
    prior_log_variance: Num[ArrayLike, ...] | None = None,
    *,
    axis: Axis | None = -1,
    where: Bool[ArrayLike, ...] | None = None,
    weights: Num[ArrayLike, ...] | None = None,
    reduction: Reduction = "none",
) -> Float[Array, ...]:
    r"""Divergence of diagonal Gaussians: $\frac12\sum_i \phi(s_i - s^0_i) + (\mu_i - \mu^0_i)^2 e^{-s^0_i}$.

    The Kullback-Leibler divergence $\mathrm{KL}(\mathcal N(\mu, e^s) \,\|\, \mathcal N(\mu^0, e^{s^0}))$, with
    $\phi(d) = e^d - 1 - d$; against the standard normal prior $\frac12\sum_i \mu_i^2 + e^{s_i} - 1 - s_i$. Both terms
    are non-negative and computed so that nothing cancels, nor overflows where the result does not.

    Args:
      mean: $\mu$, any shape.
      log_variance: $s$, logarithm of the variances, broadcast to the shape of the mean.
      prior_mean: $\mu^0$, broadcast likewise; `None` for zeros.
      prior_log_variance: $s^0$, broadcast likewise; `None` for zeros, which is unit variance.
      axis: the latent axes, an int, a tuple of ints, or `None` for all.
      where: rows to keep, of the shape of the result, or else components to keep, broadcast to the mean. What is
        dropped adds 0 to value and gradient, even if NaN.
      weights: multiply the divergences, broadcast to their shape.
      reduction: `"none"`, `"mean"` or `"sum"`; see `jaxloss.reduce`.

    Returns:
      The shape of the mean without `axis`, or a scalar; at least float32. `inf` where one variance alone is 0 or
      infinite.

    Raises:
      TypeError: mean or log-variance are not floating-point, or `where` is not boolean.
      ValueError: a shape does not broadcast to that of the mean, a wrong axis or an unknown reduction.

    Reference: Kingma, Welling, "Auto-Encoding Variational Bayes" (2014), appendix B.

    >>> print(gaussian_kl(jnp.array([[0.0, 0.0], [1.0, 0.0]]), jnp.array([[0.0, 0.0], [0.0, -1e-3]])))
    [0.         0.50000024]
    >>> print(gaussian_kl(jnp.array([3.0]), jnp.array([0.0]), prior_mean=jnp.array([1.0])))
    2.0
    """
    fn = "gaussian_kl"
    mean = checks.floating(fn, "mean", mean)
    log_variance = checks.floating(fn, "log_variance", log_variance)
    axes = class_axes(fn, axis, mean.ndim)
    keep, rows = masks(fn, where, mean.shape, axes, "mean")

    def given(arg: str, value: Any) -> Array | None:
        return None if value is None else checks.align(fn, arg, checks.number(fn, arg, value), mean.shape, "mean")

    def divergence(mean: Array, *others: Array | None) -> Array:
        full = (None if x is None else jnp.broadcast_to(x, mean.shape) for x in others)
        return blocks.add_up(_gaussian_kl(*alike(mean, *full)), axes)  # pyright: ignore[reportArgumentType, reportCallIssue]

    others = [("log_variance", log_variance), ("prior_mean", prior_mean), ("prior_log_variance", prior_log_variance)]
    losses = blocks.per_row(divergence, (mean, *(given(*other) for other in others), keep), axes)
    return reduce(losses, where=rows, weights=weights, reduction=reduction, fn=fn)


@custom_vjp
def _gaussian_kl(mean: Array, log_var: Array, mean0: Array | None, log_var0: Array | None, keep: Array | None) -> Array:
    d, _, z = _standardised(mean, log_var, mean0, log_var0, keep)
    return 0.5 * (stable.phi(d) + jnp.square(z))


def _standardised(
    mean: Array, log_var: Array, mean0: Array | None, log_var0: Array | None, keep: Array | None
) -> tuple[Array, Array, Array]:
    """Difference of log-variances, root of 1 / deviation of the prior, distance of the means in these deviations."""
    arrays = promote(*(fill(keep, x) for x in (mean, log_var, mean0, log_var0) if x is not None))
    mean, log_var, *prior = arrays
    distance = mean if mean0 is None else mean - prior[0]
    if log_var0 is None:
        return log_var, jnp.ones_like(mean), distance
    # In two factors, each of them finite: no overflow before the small distance is multiplied, no 0 * inf.
    largest = 0.95 * jnp.log(jnp.finfo(mean.dtype).max)
    root = jnp.exp(jnp.minimum(-0.25 * prior[-1], largest.astype(mean.dtype)))
    return log_var - prior[-1], root, distance * root * root


def _gaussian_kl_fwd(
    mean: Array, log_var: Array, mean0: Array | None, log_var0: Array | None, keep: Array | None
) -> tuple[Array, tuple[Any, ...]]:
    return _gaussian_kl(mean, log_var, mean0, log_var0, keep), (mean, log_var, mean0, log_var0, keep)


def _gaussian_kl_bwd(residuals: tuple[Any, ...], g: Array) -> tuple[Array | None, ...]:
    # Why a rule: autodiff keeps four float32 intermediates of the size of the mean; here the arguments are kept.
    mean, log_var, mean0, log_var0, keep = residuals
    d, root, z = _standardised(mean, log_var, mean0, log_var0, keep)
    to_mean, to_log_var = g * (z * root * root), 0.5 * g * stable.expm1(d)
    slopes = (to_mean, to_log_var, -to_mean, -to_log_var - 0.5 * g * jnp.square(z))
    cts = (None if x is None else cotangent(fill(keep, s), x) for s, x in zip(slopes, residuals[:-1], strict=True))
    return *cts, None


_gaussian_kl.defvjp(_gaussian_kl_fwd, _gaussian_kl_bwd)
