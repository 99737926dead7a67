"""`examples.language_model`: killed and resumed, with and without logits, on one device and on a mesh."""

import csv
import importlib.util
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("flax", "matplotlib", "optax", "orbax", "sklearn", "tokenizers", "tqdm")
MISSING = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
STEPS = 60  # of the quick run
SAVED = 10  # the step of its first checkpoint

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {MISSING}")


def command(work, *flags):
    places = ["--work", str(work), "--figures", str(work / "figures")]
    return [sys.executable, "-m", "examples.language_model", "--quick", *places, *flags]


def environment():
    """Without the suite's virtual devices: the example sets up its own."""
    flags = [f for f in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in f]
    return {**os.environ, "XLA_FLAGS": " ".join(flags)}


def run(work, *flags):
    done = subprocess.run(command(work, *flags), cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run_until_killed(work, checkpoint):
    with (work / "output.txt").open("w") as output:
        process = subprocess.Popen(command(work), cwd=ROOT, env=environment(), stdout=output, stderr=output)
        deadline = time.monotonic() + 300
        while not checkpoint.is_dir() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.kill()
        assert process.wait() == -signal.SIGKILL, (work / "output.txt").read_text()
    assert checkpoint.is_dir()


def logged(work, name="language_model-quick"):
    """The columns of losses, as the text that stands in the log."""
    with (work / name / "losses.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {column: [row[column] for row in rows] for column in rows[0] if column.startswith("loss ")}


def apart(losses):
    first, second = (np.array(column, float) for column in losses.values())
    assert np.all(np.isfinite(first))
    return np.max(np.abs(first - second))


def test_a_killed_run_goes_on_and_both_losses_agree(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    broken.mkdir()
    assert "went on" not in run(whole)

    run_until_killed(broken, broken / "language_model-quick" / "checkpoints" / str(SAVED))
    assert SAVED <= len(logged(broken)["loss with logits"]) < STEPS
    assert "went on from step" in run(broken)

    losses = logged(whole)
    assert logged(broken) == losses  # every digit
    assert all(len(column) == STEPS for column in losses.values())
    assert float(losses["loss without logits"][-1]) < float(losses["loss without logits"][0]) - 0.5
    # Logits are rounded to bfloat16, by at most 2**-9 of a few units; steps add to that.
    assert apart(losses) < 0.02
    assert (whole / "figures" / "language_model-quick.png").stat().st_size > 10_000


def test_a_mesh_gives_the_losses_of_one_device(tmp_path):
    printed = run(tmp_path, "--devices", "8")
    assert "4 x 2 devices" in printed
    losses = logged(tmp_path, "language_model-quick-8")
    assert list(losses) == ["loss 4 x 2 devices", "loss 1 device"]
    assert apart(losses) < 0.02
