"""Claim: confident rows keep their digits; the label's logit is the largest, 10 classes, logits of scale 10."""

from __future__ import annotations

import sys

import jax
import numpy as np
import optax

import jaxloss

MOST = 1e-6


def exact(logits: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loss and gradient in float64 from the formula; the other classes are added up apart."""
    x, row = logits.astype(np.float64), np.arange(len(labels))
    e = np.exp(x - x[row, labels][:, None])
    e[row, labels] = 0
    loss = np.log1p(e.sum(1))
    gradient = e / (1 + e.sum(1, keepdims=True))
    gradient[row, labels] = np.expm1(-loss)
    return loss, gradient


def worst(got: np.ndarray, want: np.ndarray) -> float:
    normal = np.abs(want) >= np.finfo(np.float32).tiny
    return float(np.max(np.abs(got.astype(np.float64) - want)[normal] / np.abs(want)[normal]))


def main() -> int:
    logits = np.random.default_rng(0).normal(scale=10, size=(4096, 10)).astype(np.float32)
    labels = logits.argmax(1).astype(np.int32)
    loss, gradient = exact(logits, labels)
    found = {}
    for name, fun in (
        ("jaxloss", jaxloss.softmax_cross_entropy_with_integer_labels),
        ("optax", optax.softmax_cross_entropy_with_integer_labels),
    ):
        value = np.asarray(fun(logits, labels))
        slope = np.asarray(jax.grad(lambda x, fun=fun: fun(x, labels).sum())(logits))
        found[name] = (worst(value, loss), worst(slope, gradient))
        print(f"{name}: largest relative error of the value {found[name][0]:.1e}, of the gradient {found[name][1]:.1e}")
    return int(max(found["jaxloss"]) > MOST)


if __name__ == "__main__":
    sys.exit(main())
