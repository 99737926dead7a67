"""Claim: logits whose classes are divided between devices, on explicit axes of a mesh, need no gather; optax raises."""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
from jax.sharding import AxisType, NamedSharding, PartitionSpec  # noqa: E402

import jaxloss  # noqa: E402

ROWS, CLASSES = 64, 4096
LOSSES = {
    "jaxloss": jaxloss.softmax_cross_entropy_with_integer_labels,
    "optax": optax.softmax_cross_entropy_with_integer_labels,
}


def main() -> int:
    mesh = jax.make_mesh((8,), ("classes",), axis_types=(AxisType.Explicit,), devices=jax.devices("cpu"))
    logits = jax.random.normal(jax.random.key(0), (ROWS, CLASSES))
    labels = jax.random.randint(jax.random.key(1), (ROWS,), 0, CLASSES)
    want = jax.grad(lambda x: jnp.mean(LOSSES["jaxloss"](x, labels)))(logits)
    outcomes = {}
    with jax.set_mesh(mesh):
        divided = jax.device_put(logits, NamedSharding(mesh, PartitionSpec(None, "classes")))
        whole = jax.device_put(labels, NamedSharding(mesh, PartitionSpec(None)))
        for name, loss in LOSSES.items():
            outcomes[name] = outcome(lambda x, y, loss=loss: jnp.mean(loss(x, y)), divided, whole, np.asarray(want))
            print(f"{name}: {outcomes[name]}")
    return (outcomes["jaxloss"] != RIGHT) + (outcomes["optax"] == RIGHT)


RIGHT = "the gradient of one device, and no device sees more than its classes"


def outcome(loss: Any, logits: Any, labels: Any, want: np.ndarray) -> str:
    try:
        program = jax.jit(jax.grad(loss)).lower(logits, labels).compile()
    except Exception as e:  # whatever the peer raises is its outcome
        return type(e).__name__
    if "all-gather" in program.as_text():
        return "gathers the logits"
    error = float(np.max(np.abs(np.asarray(program(logits, labels)) - want)))
    return RIGHT if error < 1e-7 else f"wrong by {error:.1e}"


if __name__ == "__main__":
    sys.exit(main())
