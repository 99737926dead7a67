"""Claim: value and gradient of a cross-entropy read the logits few times and copy nothing, bfloat16 included."""

from __future__ import annotations

import sys

import jax

from benchmarks.cases import TOKENS, VOCABULARY, cases
from benchmarks.harness import compiled

# In multiples of the logits' own bytes; the floor of the first is 3.
MOST_BYTES, MOST_TEMPORARIES = {"float32": 4.1, "bfloat16": 5.25}, 0.02


def main() -> int:
    broken = 0
    print("value and gradient of the mean, in multiples of the logits' bytes: bytes accessed, temporaries")
    for case in cases():
        if case.loss != "softmax_cross_entropy_with_integer_labels" or (case.use, case.shape) not in (
            TOKENS,
            VOCABULARY,
        ):
            continue
        args = jax.eval_shape(case.arguments)
        size = args[0].size * args[0].dtype.itemsize
        found = {}
        for name, fun in (("jaxloss", case.ours), ("optax", case.peer)):
            program = compiled(jax.value_and_grad(fun), *args)
            found[name] = (program.bytes_accessed / size, program.temporaries / size)
        print(f"{case}: " + ", ".join(f"{name} {b:.2f} and {t:.3f}" for name, (b, t) in found.items()))
        bytes_, temporaries = found["jaxloss"]
        broken += bytes_ > MOST_BYTES[args[0].dtype.name] or temporaries > MOST_TEMPORARIES
    return broken


if __name__ == "__main__":
    sys.exit(main())
