"""Claim: value and gradient, in both modes, are finite at edges where the peer, on the same inputs, is not."""

from __future__ import annotations

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
