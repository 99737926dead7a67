"""Claim: value and gradient of a cross-entropy read the logits few times and copy nothing, bfloat16 included."""

from __future__ import annotations

import sys

import jax

from benchmarks import cross_entropy as xent
from benchmarks.harness import compiled

MOST_BYTES, MOST_TEMPORARIES = 5.6, 0.10  # in multiples of the logits' own bytes; the floor of the first is 3


def main() -> int:
    broken = 0
    print("value and gradient of the mean, in multiples of the logits' bytes: bytes accessed, temporaries")
    for case in xent.CASES:
        if case.classes < 8192:
            continue
        logits, labels = jax.eval_shape(lambda case=case: xent.arguments(case))
        size = logits.size * logits.dtype.itemsize
        found = {}
        for name, fun in (("jaxloss", xent.ours), ("optax", xent.peer)):
            program = compiled(jax.value_and_grad(fun), logits, labels)
            found[name] = (program.bytes_accessed / size, program.temporaries / size)
        print(f"{case}: " + ", ".join(f"{name} {b:.2f} and {t:.3f}" for name, (b, t) in found.items()))
        bytes_, temporaries = found["jaxloss"]
        broken += bytes_ > MOST_BYTES or temporaries > MOST_TEMPORARIES
    return broken


if __name__ == "__main__":
    sys.exit(main())
