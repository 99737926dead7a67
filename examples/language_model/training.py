"""Runs that learn side by side from the same windows, and can be stopped at any time."""

import functools
import pathlib
import sys
import time
from typing import NamedTuple

import jax
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from tqdm import tqdm

from examples.language_model import losses
from examples.language_model.config import Config
from examples.language_model.files import Log
from examples.language_model.model import Transformer
from examples.language_model.text import Batch, Text, batch_of


class State(NamedTuple):
    params: nnx.State
    optimizer: optax.OptState


class Run(NamedTuple):
    """One way to compute the loss, compiled; all of them start from the same state."""

    state: State  # at step 0
    step: jax.stages.Compiled  # state, windows -> state, loss
    evaluate: jax.stages.Compiled  # parameters, windows -> loss without the z-loss
    temporaries: int  # bytes that the step needs on a device beside state and windows


class Result(NamedTuple):
    states: dict[str, State]
    log: Log
    resumed: int  # the step from which this process went on


def optimizer_of(config: Config) -> optax.GradientTransformation:
    schedule = optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, config.warmup, config.steps)
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.98, weight_decay=0.01))


def compile_runs(config: Config, devices: int, windows: Batch) -> dict[str, Run]:
    """With one device, the loss without and with logits; with several, the mesh beside one device."""
    graph, params = nnx.split(Transformer(config, nnx.Rngs(config.seed)), nnx.Param)
    compiled = functools.partial(compile_run, config, params, windows)
    one = SingleDeviceSharding(jax.devices()[0])
    if devices == 1:
        ways = {"without logits": losses.without_logits, "with logits": losses.with_logits}
        return {name: compiled(way(graph), one) for name, way in ways.items()}
    mesh = jax.make_mesh((devices // 2, 2), (losses.DATA, losses.VOCAB), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    name = f"{devices // 2} x 2 devices"
    return {name: compiled(losses.sharded(graph, mesh), mesh), "1 device": compiled(losses.without_logits(graph), one)}


def compile_run(
    config: Config, params: nnx.State, windows: Batch, loss: losses.Loss, place: Mesh | SingleDeviceSharding
) -> Run:
    optimizer = optimizer_of(config)

    def step(state: State, batch: Batch) -> tuple[State, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(state.params, batch, config.z_loss)
        updates, inner = optimizer.update(gradient, state.optimizer, state.params)
        return State(optax.apply_updates(state.params, updates), inner), value

    state = State(params, optimizer.init(params))
    shardings = shardings_of(state, place)
    # A copy, because the step reuses the memory of its argument, and all runs start from these parameters.
    state = jax.tree.map(jax.device_put, jax.tree.map(lambda x: x.copy(), state), shardings)
    lowered = jax.jit(step, donate_argnums=0, out_shardings=(shardings, None)).lower(state, windows)
    compiled = lowered.compile()
    evaluate = jax.jit(functools.partial(loss, z_loss=0.0)).lower(state.params, windows).compile()
    return Run(state, compiled, evaluate, compiled.memory_analysis().temp_size_in_bytes)


def shardings_of(state: State, place: Mesh | SingleDeviceSharding) -> State:
    if isinstance(place, Mesh):
        return jax.tree.map(lambda spec: NamedSharding(place, spec), losses.partition(state))
    return jax.tree.map(lambda _: place, state)


def train(config: Config, text: Text, runs: dict[str, Run], folder: pathlib.Path) -> Result:
    """Goes on from the last complete checkpoint in the folder, or begins."""
    states = {name: run.state for name, run in runs.items()}
    with checkpoints(folder) as manager:
        start = manager.latest_step() or 0
        if start:
            restored = manager.restore(start, args=ocp.args.StandardRestore(jax.tree.map(abstract, states)))
            states = {name: restored[name] for name in runs}  # in this order again
        log = Log(folder / "losses.csv", [f"{what} {name}" for what in ("loss", "seconds") for name in runs], start)
        pause = 0.5 if sys.stderr.isatty() else 10.0  # between updates of the bar: a log keeps every one of them
        steps = range(start, config.steps)
        for step in (bar := tqdm(steps, "training", initial=start, total=config.steps, unit="step", mininterval=pause)):
            row = {}
            batch = batch_of(text.train, config, step)
            for name, run in runs.items():
                began = time.perf_counter()
                states[name], loss = run.step(states[name], batch)
                row[f"loss {name}"] = float(loss)
                row[f"seconds {name}"] = time.perf_counter() - began
            log.append(row)
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            if (step + 1) % config.save_every == 0 or step + 1 == config.steps:
                manager.save(step + 1, args=ocp.args.StandardSave(states))
    return Result(states, log, start)


def checkpoints(folder: pathlib.Path) -> ocp.CheckpointManager:
    # A checkpoint is written under another name and renamed when it is complete: an interrupted one does not count.
    # Not in the background, because the next step reuses the memory of the arrays.
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    return ocp.CheckpointManager(folder.resolve() / "checkpoints", options=options)


def abstract(array: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=array.sharding)


def held_out_loss(config: Config, text: Text, run: Run, params: nnx.State) -> float:
    """The mean over all tokens of the same windows for every run."""
    total = count = 0.0
    for step in range(config.held_out_batches):
        batch = batch_of(text.held_out, config, step)
        tokens = float(np.sum(batch.where))
        total += tokens * float(run.evaluate(params, batch))
        count += tokens
    return total / count
