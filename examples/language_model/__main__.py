"""Trains a small language model on text that is installed anyway, without logits in memory and with them.

A Transformer with tied embeddings and a vocabulary of 32768, for which the logits are the largest array of a training
step by far. The same run with logits is beside it: same losses, other memory. `--devices 8` divides windows and
vocabulary over a mesh of virtual devices instead and compares with one device. An interrupted run goes on from its last
checkpoint when the same command is given again. Run: `python -m examples.language_model`.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import shutil
import sys

from examples.language_model import files
from examples.language_model.config import Config, choose

HERE = pathlib.Path(__file__).parent
CLOSE = 0.05  # nats: how far bfloat16 may take the losses of two ways from each other


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.language_model", description=__doc__)
    parser.add_argument("--devices", type=int, default=1, choices=(1, 2, 4, 8), help="more than one: a mesh")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, a few seconds")
    parser.add_argument("--fresh", action="store_true", help="do not go on from a checkpoint")
    work = HERE.parents[1] / "build" / "language_model"
    parser.add_argument("--work", type=pathlib.Path, default=work, help="folder for text, losses and checkpoints")
    parser.add_argument("--figures", type=pathlib.Path, default=HERE.parent / "figures", help="folder for the figure")
    return parser.parse_args()


def prepare(folder: pathlib.Path, config: Config, fingerprint: str, fresh: bool) -> None:
    """The folder of the run, which holds the settings that its checkpoints belong to."""
    if fresh:
        shutil.rmtree(folder, ignore_errors=True)
    settings = json.dumps({**dataclasses.asdict(config), "text": fingerprint}, indent=1)
    path = folder / "settings.json"
    if path.exists() and path.read_text(encoding="utf-8") != settings:
        sys.exit(f"{folder} holds a run with other settings: --fresh begins again, --work keeps both")
    files.write(path, lambda partial: partial.write_text(settings, encoding="utf-8"))


def main() -> None:
    args = arguments()
    if args.devices > 1:  # read when jax starts, so this comes before everything that imports it
        flag = f"--xla_force_host_platform_device_count={args.devices}"
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()

    import jax

    from examples import _common
    from examples.language_model import report, text, training

    if len(jax.devices()) < args.devices:
        sys.exit(f"{len(jax.devices())} devices, {args.devices} wanted: JAX_PLATFORMS=cpu gives virtual ones")
    config = choose(args.quick, args.devices)
    name = "-".join(["language_model", *["quick"] * args.quick, *[f"{args.devices}"] * (args.devices > 1)])
    folder = args.work / name
    data = text.load(config, args.work)
    prepare(folder, config, data.fingerprint(), args.fresh)

    runs = training.compile_runs(config, args.devices, text.batch_of(data.train, config, 0))
    result = training.train(config, data, runs, folder)
    if result.resumed:
        print(f"went on from step {result.resumed} of {config.steps} ({folder}; --fresh begins again)")

    summary = report.Summary(
        log=result.log.read(),
        held_out={n: training.held_out_loss(config, data, runs[n], s.params) for n, s in result.states.items()},
        temporaries={n: run.temporaries for n, run in runs.items()},
        unigram=text.unigram_loss(data, config.vocabulary),
        sizes=f"{config.batch * config.length} tokens a step, vocabulary {config.vocabulary}, width {config.width}",
    )
    print()
    report.print_results(summary)
    on_one_device = result.states[list(runs)[-1]]  # the last, whatever the others are
    print("sample:", json.dumps(report.sample(config, data, on_one_device.params)))
    _common.save(report.draw(summary), args.figures, name)
    if summary.largest_difference() > CLOSE:
        sys.exit(f"the two losses differ by more than {CLOSE}")
    if not args.quick and args.devices == 1 and max(summary.held_out.values()) > summary.unigram:
        sys.exit("the model is no better than token frequencies")


if __name__ == "__main__":
    main()
