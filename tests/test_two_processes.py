"""Two real processes over loopback train with tokens and vocabulary split between all their devices."""

import os
import pathlib
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import two_process_worker as worker
from linear_formulas import assert_close, cross_entropy, truth

HERE = pathlib.Path(__file__).parent
SECONDS = 300


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def run_together(folder, processes=2):
    """What each process printed, and its exit status."""
    port, output = free_port(), folder / "results.npz"
    # Virtual devices are the worker's own, and nothing goes over a proxy.
    environment = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "PYTEST_XDIST_WORKER")}
    environment |= {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(HERE.parent), "no_proxy": "*"}
    logs = [folder / f"{i}.txt" for i in range(processes)]
    running = []
    for i, log in enumerate(logs):
        command = [sys.executable, str(HERE / "two_process_worker.py"), str(i), str(processes), str(port), str(output)]
        with log.open("w") as file:
            running.append(subprocess.Popen(command, env=environment, stdout=file, stderr=file))
    try:
        deadline = time.monotonic() + SECONDS
        while any(p.poll() is None for p in running) and time.monotonic() < deadline:
            if any(p.poll() not in (None, 0) for p in running):
                time.sleep(2)  # the others may have something to say
                break
            time.sleep(0.1)
    finally:
        for p in running:
            p.kill()
            p.wait()
    said = "\n".join(
        f"process {i}: {p.returncode}\n{log.read_text()[-3000:]}"
        for i, (p, log) in enumerate(zip(running, logs, strict=True))
    )
    return all(p.returncode == 0 for p in running), said, output


@pytest.fixture
def results(tmp_path_factory):
    said = ""
    for _ in range(3):
        done, said, output = run_together(tmp_path_factory.mktemp("two"))
        if done:
            return dict(np.load(output))
        if "in use" not in said.lower():  # another program took the port between its choice and its use
            break
    pytest.fail(said)


def in_one_process():
    """The same training from the formula, in float64."""

    def loss(hidden, kernel, labels, bias, where):
        tokens = worker.BATCH * worker.LENGTH
        return cross_entropy(
            hidden.reshape(tokens, worker.D), kernel.T, labels.reshape(tokens), bias, where.reshape(tokens),
            z_loss=worker.OPTIONS["z_loss"], label_smoothing=worker.OPTIONS["label_smoothing"],
        )  # fmt: skip

    def place(arrays, *_, **__):
        return {k: jnp.asarray(x, jnp.float64 if x.dtype == np.float32 else x.dtype) for k, x in arrays.items()}

    found = truth(lambda: worker.train(loss, place))
    return {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(found)}


@pytest.mark.core
def test_losses_gradients_and_parameters_are_those_of_one_process(results):
    """By every method, in one test: two workers of a parallel run would each start the two processes."""
    want = in_one_process()
    for method in ("dense", "fast", "lean"):
        got = {name.removeprefix(method): x for name, x in results.items() if name.startswith(method)}
        assert got.keys() == want.keys() and len(got) == 4 * worker.STEPS + 3
        values = [got[f"[0][{i}]['value']"] for i in range(worker.STEPS)]
        assert values[-1] < values[0] - 0.3
        assert_close(got, want, 2e-5)
