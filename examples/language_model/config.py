"""Sizes of the runs. Nothing here imports jax, since the number of virtual devices must be set before that."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Config:
    vocabulary: int = 32768
    packages: bool = True  # docstrings of the standard library and of packages; without them its topics only
    width: int = 64
    heads: int = 4
    layers: int = 2
    length: int = 64  # tokens of a window
    batch: int = 8  # windows of a step
    steps: int = 300
    warmup: int = 30
    learning_rate: float = 1e-2
    z_loss: float = 1e-4
    save_every: int = 50
    held_out_batches: int = 32
    seed: int = 0


FULL = Config()
QUICK = Config(
    vocabulary=1024,
    packages=False,
    width=32,
    layers=1,
    length=32,
    steps=60,
    warmup=5,
    save_every=10,
    held_out_batches=2,
)


def choose(quick: bool, devices: int) -> Config:
    config = QUICK if quick else FULL
    # Virtual devices share the cores of one machine: what they show is that the losses agree, for which fewer steps do.
    return config if devices == 1 else dataclasses.replace(config, steps=config.steps // 4, save_every=10)
