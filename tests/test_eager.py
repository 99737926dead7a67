"""Losses without `jit` around them: what a first call compiles."""

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloss

COMPILED = "/jax/core/compile/backend_compile_duration"
X = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 5)), jnp.float32)
LABELS = jnp.asarray(np.random.default_rng(1).integers(0, 5, size=(2, 6)))
CALLS = {
    "softmax_cross_entropy_with_integer_labels": lambda x: jaxloss.softmax_cross_entropy_with_integer_labels(x, LABELS),
    "sigmoid_binary_cross_entropy": lambda x: jaxloss.sigmoid_binary_cross_entropy(x, X),
    "cosine_similarity": lambda x: jaxloss.cosine_similarity(x, X),
    "dice_loss": lambda x: jaxloss.dice_loss(x, LABELS),
}


@pytest.mark.parametrize("name", CALLS)
def test_gradient_is_not_one_program_for_each_operation(name):
    """That would take seconds, and write every intermediate result to memory, with dozens of programs."""
    jax.clear_caches()
    programs = []
    count = lambda event, _, **__: programs.append(event) if event == COMPILED else None  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        jax.block_until_ready(jax.grad(lambda x: jnp.sum(CALLS[name](x)))(X))
    finally:
        jax.monitoring.unregister_event_duration_listener(count)
    assert 2 <= len(programs) <= 6  # the value and its gradient; the sum and its own
