"""The rule behind the Kullback-Leibler divergence of two softmax distributions."""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp

from jaxloss._core import blocks
from jaxloss._core.autodiff import custom_vjp
from jaxloss._core.pair import RULED_OUT, Mean, Rows, along, centred, kl_term, others, pair, rows, rule_out, unbounded
from jaxloss._core.precision import cotangent
from jaxloss._core.reduction import fill
from jaxloss._core.typing import Array


@functools.partial(custom_vjp, nondiff_argnums=(0,))
def softmax_kl(axis: int, x: Array, y: Array, t: Array, keep: Array | None) -> Array:
    """KL(softmax(y / t) || softmax(x / t)) of every row; `keep` has the class axis, or length 1 there."""
    return blocks.per_row(lambda *args: _in_block(axis, *args)[1], (x, y, t, keep), axis)


def _in_block(axis: int, x: Array, y: Array, t: Array, keep: Array | None) -> tuple[Rows, Array]:
    x, y = rule_out(keep, x, axis), rule_out(keep, y, axis)
    r = rows(x, y, t, axis)
    c = pair(x, y, t, along(r, axis))
    return r, jnp.sum(kl_term(c.p, c.q, c.d), axis)


def _softmax_kl_fwd(axis: int, *args: Any) -> tuple[Array, tuple]:
    def by_rule(*args: Any) -> tuple[Rows, Array]:  # the second derivative of the residual is the rule's too
        return _in_block(axis, *args)[0], softmax_kl(axis, *args)

    r, kl = blocks.per_row(functools.partial(_in_block, axis), args, axis, by_rule)
    return kl, (*args, *along((r, kl), axis))


def _softmax_kl_bwd(axis: int, residuals: tuple, g: Array) -> tuple[Array | None, ...]:
    # Why a rule: autodiff of two log-softmaxes keeps several float32 arrays of the size of the logits. Here the logits
    # are kept in their own dtype, with six numbers for each row, and p - q is found without cancellation.
    x, y, t, keep, r, kl = residuals
    c = pair(rule_out(keep, x, axis), rule_out(keep, y, axis), t, r)
    slope = along(g / t, axis)
    rest, mass = blocks.per_row(functools.partial(_others, axis), residuals, axis)
    to_y = centred(c.q, -c.q * c.d, c.q_top, Mean(kl, *along((rest, mass), axis)))
    to_y = jnp.where(kl == jnp.inf, unbounded(c.q, c.d < -RULED_OUT), to_y)
    to_t = -jnp.sum(g / t * blocks.per_row(functools.partial(_by_temperature, axis), residuals, axis))
    return cotangent(fill(keep, slope * c.difference), x), cotangent(fill(keep, slope * to_y), y), to_t, None


def _others(axis: int, x: Array, y: Array, t: Array, keep: Array | None, r: Rows, kl: Array) -> tuple[Array, Array]:
    c = pair(rule_out(keep, x, axis), rule_out(keep, y, axis), t, r)
    return others(c.q, -c.q * c.d, c.q_top, axis)


def _by_temperature(axis: int, x: Array, y: Array, t: Array, keep: Array | None, r: Rows, kl: Array) -> Array:
    """log p * to_x + log q * to_y: with log p = log q + d, first-order parts cancel on paper, not in float32."""
    c = pair(rule_out(keep, x, axis), rule_out(keep, y, axis), t, r)
    by_t = c.d * c.difference + c.log_q * (kl_term(c.p, c.q, c.d) - c.q * kl)
    return jnp.sum(jnp.where(c.log_q < -RULED_OUT, c.p * c.log_p, by_t), axis)


softmax_kl.defvjp(_softmax_kl_fwd, _softmax_kl_bwd)
