"""The figure of a run: how much time each loss takes against its peers."""

from __future__ import annotations

import pathlib
from typing import Any

BARS = {"time / peer": "tab:blue", "time / torch": "tab:orange", "time / keras": "tab:red"}
HEIGHT = 0.26


def draw(records: list[dict[str, Any]], path: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shown = [r for r in records if r["mode"] == "value and gradient"][::-1]
    figure, axes = plt.subplots(figsize=(10, 1 + 0.3 * len(shown)), layout="constrained")
    for i, (key, colour) in enumerate(BARS.items()):
        there = [(k, r[key]) for k, r in enumerate(shown) if key in r]
        at = [k + HEIGHT * (1 - i) for k, _ in there]
        middle = [m for _, (m, _, _) in there]
        spread = [[m - low for _, (m, low, _) in there], [high - m for _, (m, _, high) in there]]
        label = key.replace("time / peer", "time / optax, or jax.numpy")
        axes.barh(at, middle, HEIGHT, xerr=spread, color=colour, ecolor="0.4", label=label)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(shown)), [r["case"] for r in shown], fontsize=8)
    axes.set_ylim(-1, len(shown))
    axes.set_xscale("log")
    axes.set_xlabel("time of value and gradient, jaxloss / peer (below 1 is faster)")
    figure.legend(loc="outside upper right", ncols=len(BARS))
    figure.savefig(path, dpi=120)
    plt.close(figure)
