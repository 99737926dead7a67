"""One of several processes that train a small model together; `test_two_processes.py` starts them.

python two_process_worker.py PROCESS PROCESSES PORT OUTPUT
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

import jaxloss

V, D, BATCH, LENGTH, STEPS, RATE = 52, 8, 8, 3, 4, 0.5
DEVICES = 4  # of each process
OPTIONS = {"kernel_layout": "vd", "z_loss": 1e-2, "label_smoothing": 0.1}


def parameters():
    rng = np.random.default_rng(0)
    return {
        "embedding": rng.normal(size=(V, D)).astype(np.float32),
        "mix": rng.normal(size=(D, D)).astype(np.float32) / D**0.5,
        "bias": rng.normal(size=V).astype(np.float32),
    }


def batch(step):
    """Sequences and their masks, of which most are on the first devices."""
    rng = np.random.default_rng(100 + step)
    tokens = rng.integers(0, V, (BATCH, LENGTH + 1)).astype(np.int32)
    return tokens, rng.random((BATCH, LENGTH)) < np.linspace(1.0, 0.2, BATCH)[:, None]


def features(params, tokens):
    """A comparison with the classes instead of a lookup: it divides over devices like any product."""
    one_hot = (tokens[..., None] == np.arange(V, dtype=tokens.dtype)[None, None]).astype(params["embedding"].dtype)
    return jnp.tanh(one_hot @ params["embedding"] @ params["mix"])


def train(loss, place):
    """Losses and gradients of every step of gradient descent, and the parameters at the end."""

    def objective(params, tokens, keep):
        hidden = features(params, tokens[:, :-1])
        return loss(hidden, params["embedding"], tokens[:, 1:], bias=params["bias"], where=keep)

    @jax.jit
    def step(params, tokens, keep):
        value, slopes = jax.value_and_grad(objective)(params, tokens, keep)
        return jax.tree.map(lambda p, g: p - RATE * g, params, slopes), value, slopes

    params, found = place(parameters(), P("model"), mix=P(), bias=P("model")), []
    for i in range(STEPS):
        tokens, keep = batch(i)
        data = place({"tokens": tokens, "keep": keep}, P("data"))
        params, value, slopes = step(params, data["tokens"], data["keep"])
        found.append({"value": value, **slopes})
    return found, params


def main(process, processes, port, output):
    jax.config.update("jax_num_cpu_devices", DEVICES)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", processes, process, initialization_timeout=120)
    assert (jax.process_count(), jax.device_count()) == (processes, processes * DEVICES)
    # Neighbours along either axis are in different processes.
    by_process = np.array(jax.devices()).reshape(processes, DEVICES)
    rows = [(by_process[i % 2, i], by_process[1 - i % 2, i]) for i in range(DEVICES)]
    mesh = Mesh(np.array(rows), ("data", "model"), axis_types=(AxisType.Auto,) * 2)

    def place(arrays, default, **specs):
        def one(name, x):
            sharding = NamedSharding(mesh, specs.get(name, default))
            return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

        return {name: one(name, x) for name, x in arrays.items()}

    @jax.jit
    def everywhere(tree):
        return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, NamedSharding(mesh, P())), tree)

    results = {}
    for method, options in {"dense": {}, "fast": {"chunk_size": 4}, "lean": {"chunk_size": 4}}.items():
        over_mesh = jaxloss.sharded(jaxloss.linear_cross_entropy, mesh, tokens="data", vocab="model")

        def loss(*args, method=method, options=options, over_mesh=over_mesh, **given):
            return over_mesh(*args, **given, **OPTIONS, method=method, **options)

        for path, x in jax.tree_util.tree_leaves_with_path(everywhere(train(loss, place))):
            results[method + jax.tree_util.keystr(path)] = np.asarray(x)
    if process == 0:
        np.savez(output, **results)
    jax.distributed.shutdown()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), sys.argv[4])
