"""Other libraries' cross-entropy of hidden states and a kernel: value and both gradients, where they are installed.

Each entry is called with `(hidden, kernel, labels)` of jax, before anything is timed, and returns what is to be timed.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax
from tqdm import tqdm

Timed = Callable[..., Any]
PATIENCE = 10.0  # seconds for one call of a peer


def optax_on_logits(hidden: Any, kernel: Any, labels: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(hidden @ kernel, labels).mean()


def torch_peers(*args: jax.Array) -> dict[str, Timed]:
    """PyTorch on the same device: on logits, in chunks, and on a GPU the kernels of two libraries."""
    if not importlib.util.find_spec("torch"):
        return {}
    import torch
    from torch.nn import functional
    from torch.nn.modules.linear_cross_entropy_options import LinearCrossEntropyOptions

    gpu = torch.cuda.is_available() and jax.default_backend() == "gpu"
    device = "cuda" if gpu else "cpu"

    def tensor(x: jax.Array) -> torch.Tensor:
        wide = torch.from_numpy(np.array(x.astype("float32") if x.dtype == "bfloat16" else x))
        return wide.to(device, torch.bfloat16 if x.dtype == "bfloat16" else wide.dtype)

    hidden, kernel, labels = map(tensor, args)
    # Its kernels are [V, D] and contiguous.
    if (seconds := _products_take(hidden, kernel)) > PATIENCE:
        tqdm.write(f"PyTorch left out: its products alone would take {seconds:.0f} s in {hidden.dtype} on this machine")
        return {}
    hidden, kernel, labels = hidden.requires_grad_(), kernel.T.contiguous().requires_grad_(), labels.long()

    def timed(loss: Callable[..., Any]) -> Timed:
        def run(*_: Any) -> float:
            value = loss(hidden, kernel, labels)
            torch.autograd.grad(value, (hidden, kernel))
            if gpu:
                torch.cuda.synchronize()
            return value.item()

        return run

    chunks = LinearCrossEntropyOptions(batch_chunk_size=512, acc_policy="accurate")
    found = {
        "torch on logits": timed(lambda h, w, y: functional.cross_entropy(h @ w.T, y)),
        "torch in chunks": timed(lambda h, w, y: functional.linear_cross_entropy(h, w, y, options=chunks)),
    }
    if gpu and importlib.util.find_spec("cut_cross_entropy"):
        from cut_cross_entropy import linear_cross_entropy  # type: ignore[import-not-found]

        found["cut-cross-entropy"] = timed(linear_cross_entropy)
    if gpu and importlib.util.find_spec("liger_kernel"):
        from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss  # type: ignore[import-not-found]

        liger = LigerFusedLinearCrossEntropyLoss()
        found["Liger"] = timed(lambda h, w, y: liger(w, h, y))
    return found


def _products_take(hidden: Any, kernel: Any) -> float:
    """Seconds for three products, from one of a few rows: bfloat16 may take 200 times as long as float32."""
    few = hidden[:8]
    few @ kernel
    start = time.perf_counter()
    few @ kernel
    return 3 * (time.perf_counter() - start) * len(hidden) / len(few)


def tokamax_loss() -> Callable[..., Any] | None:
    if not importlib.util.find_spec("tokamax"):
        return None
    import tokamax  # type: ignore[import-not-found]

    def loss(hidden: Any, kernel: Any, labels: Any) -> Any:
        return tokamax.linear_softmax_cross_entropy_loss(hidden, labels, kernel, reduction="mean", implementation="xla")

    return loss
