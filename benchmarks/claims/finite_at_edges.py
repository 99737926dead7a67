"""Claim: value and gradient, in both modes, are finite at edges where the peer, on the same inputs, is not."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxloss

Edge = tuple[str, Callable[..., Any], Callable[..., Any], tuple[Any, ...]]

_row = jnp.array([[0.0, 1.0, -jnp.inf]])
EDGES: list[Edge] = [
    (
        "dense cross-entropy, a class ruled out by -inf",
        jaxloss.softmax_cross_entropy,
        optax.softmax_cross_entropy,
        (_row, jnp.array([[1.0, 0.0, 0.0]])),
    ),
    (
        "safe cross-entropy, the same",
        jaxloss.safe_softmax_cross_entropy,
        optax.safe_softmax_cross_entropy,
        (_row, jnp.array([[1.0, 0.0, 0.0]])),
    ),
    (
        "binary cross-entropy, an infinite logit that agrees",
        jaxloss.sigmoid_binary_cross_entropy,
        optax.sigmoid_binary_cross_entropy,
        (jnp.array([jnp.inf]), jnp.array([1.0])),
    ),
    (
        "KL divergence with log targets, a zero target",
        jaxloss.kl_divergence_with_log_targets,
        optax.losses.kl_divergence_with_log_targets,
        (jnp.log(jnp.array([[0.5, 0.25, 0.25]])), jnp.log(jnp.array([[0.5, 0.5, 0.0]]))),
    ),
    (
        "KL divergence, a class that neither side has",
        jaxloss.kl_divergence,
        optax.losses.kl_divergence,
        (jnp.array([[0.0, -jnp.inf]]), jnp.array([[1.0, 0.0]])),
    ),
    (
        "focal loss, an infinite logit that agrees",
        jaxloss.sigmoid_focal_loss,
        optax.losses.sigmoid_focal_loss,
        (jnp.array([jnp.inf]), jnp.array([1.0])),
    ),
    (
        "cosine distance, a vector of length 0",
        jaxloss.cosine_distance,
        optax.losses.cosine_distance,
        (jnp.zeros((1, 2)), jnp.ones((1, 2))),
    ),
    (
        "triplet margin loss, identical points without epsilon",
        functools.partial(jaxloss.triplet_margin_loss, eps=0.0),
        functools.partial(optax.losses.triplet_margin_loss, eps=0.0),
        (jnp.zeros((1, 2)), jnp.zeros((1, 2)), jnp.ones((1, 2))),
    ),
    (
        "NT-Xent, no two examples of one group",
        jaxloss.ntxent,
        optax.losses.ntxent,
        (jnp.eye(2), jnp.array([0, 1])),
    ),
    (
        "Dice loss, nothing there and nothing predicted",
        functools.partial(jaxloss.dice_loss, smooth=0.0),
        functools.partial(optax.losses.dice_loss, smooth=0.0),
        (jnp.full((1, 2, 1), -200.0), jnp.zeros((1, 2, 1))),
    ),
    (
        "CTC, an alignment that cannot be",
        functools.partial(jaxloss.ctc_loss, zero_infinity=True),
        optax.losses.ctc_loss,
        (jnp.full((1, 2, 3), -jnp.inf).at[..., 0].set(0.0), jnp.zeros((1, 2)), jnp.array([[1]]), jnp.zeros((1, 1))),
    ),
]


def state(fun: Callable[..., Any], args: tuple[Any, ...]) -> tuple[bool, bool, bool]:
    """Whether the value, the gradient in the prediction and its forward mode are finite."""

    def total(x: Any) -> Any:
        return jnp.sum(fun(x, *args[1:]))

    pieces = (total(args[0]), jax.grad(total)(args[0]), jax.jacfwd(total)(args[0]))
    value, gradient, forward = (bool(np.isfinite(np.asarray(x)).all()) for x in pieces)
    return value, gradient, forward


def main() -> int:
    broken = 0
    print("finite or not: value, gradient, gradient in forward mode")
    for name, ours, theirs, args in EDGES:
        found, peer = state(ours, args), state(theirs, args)
        shown = ["/".join("ok" if ok else "NaN" for ok in states) for states in (found, peer)]
        print(f"{name}: jaxloss {shown[0]}, optax {shown[1]}")
        broken += not all(found) or all(peer)
    return broken


if __name__ == "__main__":
    sys.exit(main())
