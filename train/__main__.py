"""Train a masker for a frozen encoder on a folder of images."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from runtime.cli import console
from runtime.media.geometry import RESIZES
from runtime.package.records import TrainingRecord
from train.config import (
    AUGMENTATIONS,
    EMBEDDINGS,
    FILLS,
    MASKERS,
    OBJECTIVES,
    PRECISIONS,
    EncoderConfig,
    TrainConfig,
)

EXAMPLE = """example:
  nemu train --encoder timm/resnet50 --data photographs/ --out runs/resnet50
  nemu build --masker runs/resnet50/masker.safetensors --out resnet50.nemu

On several GPUs: torchrun --nproc-per-node 4 -m train … (the batch size is that of all processes
together).
"""

WORTHLESS = 3
"""Exit code of a run that wrote a masker whose masks are grey, empty, full or no better than these."""

CHECKED = {*(field.name for field in dataclasses.fields(EncoderConfig)), "check", "json", "quiet"}
"""Options that --check uses."""


def parser() -> argparse.ArgumentParser:
    """The command line; each option's default is the dataclass's."""
    p = argparse.ArgumentParser(
        prog="nemu train",
        description=__doc__,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("--encoder", required=True, help="timm/NAME, or module:factory for your own")
    p.add_argument("--data", help="folder of images, searched recursively; no labels needed")
    p.add_argument("--out", type=Path, help="folder for masker.safetensors and checkpoints")
    p.add_argument(
        "--check",
        type=Path,
        metavar="PHOTO",
        help="train nothing: print the five ImageNet classes that the encoder names, and those by other "
        "timm models that take the same weights",
    )
    _add_encoder(p.add_argument_group("encoder (defaults: the model's own configuration)"))
    _add_training(p.add_argument_group("training"))
    _add_running(p.add_argument_group("running"))
    return p


def _add_encoder(e: argparse._ArgumentGroup) -> None:
    e.add_argument("--weights", help="safetensors file for a timm encoder; default: timm's own")
    e.add_argument("--embedding", choices=EMBEDDINGS, help="which vector is the embedding")
    e.add_argument("--l2-normalize", action="store_true", help="scale the embedding to unit length")
    e.add_argument("--image-size", type=int, nargs="+", metavar="N", help="pixels: side, or height width")
    e.add_argument("--resize", choices=RESIZES, help="how an image becomes that size")
    e.add_argument("--mean", type=float, nargs=3, metavar="M", help="of the pixels in [0, 1], R G B")
    e.add_argument("--std", type=float, nargs=3, metavar="S", help="of the pixels in [0, 1], R G B")
    e.add_argument("--taps", type=int, nargs="+", metavar="I", help="timm feature maps for the pyramid")


def _add_training(t: argparse._ArgumentGroup) -> None:
    d = TrainConfig
    t.add_argument("--masker", choices=MASKERS, default=d.masker, help="the decoder; unet is the authors'")
    t.add_argument("--image-skip", action="store_true", help="the image itself is a skip of the unet decoder")
    t.add_argument("--objective", choices=OBJECTIVES, default=d.objective)
    t.add_argument(
        "--toward",
        action=argparse.BooleanOptionalAction,
        default=d.toward,
        help="the masker also takes a target embedding and shows what is like it (on with a lateral masker, "
        "an objective that compares embeddings, and batches of 3 or more)",
    )
    t.add_argument("--area-weight", type=float, help="price of the mask's size (measured on the encoder)")
    t.add_argument(
        "--centred",
        action=argparse.BooleanOptionalAction,
        default=d.centred,
        help="cosine around the mean embedding",
    )
    t.add_argument("--fill", choices=FILLS, default=d.fill, help="for masked-out pixels (%(default)s)")
    t.add_argument("--augment", choices=AUGMENTATIONS, default=d.augment)
    t.add_argument("--steps", type=int, default=d.steps, help="optimiser steps (%(default)s)")
    t.add_argument("--batch-size", type=int, default=d.batch_size, help="over all processes (%(default)s)")
    t.add_argument("--learning-rate", type=float, default=d.learning_rate)
    t.add_argument("--weight-decay", type=float, default=d.weight_decay)
    t.add_argument("--seed", type=int, default=d.seed)
    t.add_argument("--precision", choices=PRECISIONS, default=d.precision)


def _add_running(r: argparse._ArgumentGroup) -> None:
    how = r.add_mutually_exclusive_group()
    how.add_argument("--resume", choices=("auto", "never"), default="never", help="auto: continue a run")
    how.add_argument("--force", action="store_true", help="start afresh although --out holds a run")
    r.add_argument("--checkpoint-every", type=int, default=100, metavar="STEPS")
    r.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that decode images (default: 1 on a CPU, up to 8 with a GPU)",
    )
    console.add_arguments(r)


def main(argv: list[str] | None = None) -> int:
    """Run; returns the exit code: 0 ok, 1 error, 2 usage, 3 WORTHLESS, 130 interrupted."""
    p = parser()
    options = p.parse_args(argv)
    if len(options.image_size or ()) > 2:
        p.error("--image-size takes one number, or height and width")
    if (options.workers or 0) < 0 or options.checkpoint_every < 1:
        p.error("--workers is 0 or more, --checkpoint-every at least 1")
    if not options.check and not (options.data and options.out):
        p.error("--data and --out are needed, except with --check PHOTO")
    if options.check and (unused := _given(p, options) - CHECKED):
        names = ", ".join(f"--{name.replace('_', '-')}" for name in sorted(unused))
        p.error(f"--check trains nothing: leave out {names}")
    logging.basicConfig(format="%(levelname)s: %(message)s")
    return console.exit_code(
        lambda: _check(options) if options.check else _run(options),
        stopped="continue with the same command and --resume auto",
        failures=(OSError, SafetensorError),
    )


def _given(p: argparse.ArgumentParser, options: argparse.Namespace) -> set[str]:
    """Names of the options that differ from their defaults."""
    return {name for name, value in vars(options).items() if value != p.get_default(name)}


def _run(options: argparse.Namespace) -> int:
    config = config_of(options)
    from train.fit import fit  # imports torch, so only after the command line is parsed
    from train.machine import keep_memory
    from train.run_folder import MASKER

    keep_memory()
    summary = fit(
        config,
        options.out,
        resume=options.resume == "auto",
        force=options.force,
        checkpoint_every=options.checkpoint_every,
        workers=options.workers,
        progress=not options.quiet,
    )
    if int(os.environ.get("RANK", "0")):  # under torchrun the first process alone reports
        return 0
    masker = options.out / MASKER
    facts = {"masker": str(masker), **dataclasses.asdict(summary)}
    console.answer(options, facts, "\n".join(_report(summary, masker)))
    if summary.fault is None:
        return 0
    print(f"warning: {summary.fault}", file=sys.stderr)
    return 0 if "RANK" in os.environ else WORTHLESS  # torchrun would report a crash


def _check(options: argparse.Namespace) -> int:
    config = encoder_of(options)
    from train.encoder.check import check

    found = check(config, options.check)
    lines = [
        line
        for name, classes in found.items()
        for line in (f"{name}:", *(f"  {p:6.1%}  {c}" for c, p in classes))
    ]
    console.answer(options, found, "\n".join(lines))
    return 0


def _report(summary: TrainingRecord, masker: Path) -> Iterator[str]:
    from train.run_folder import SKIPPED

    if summary.skipped:
        yield f"{summary.skipped} files could not be decoded, listed in {masker.with_name(SKIPPED)}"
    yield (
        f"{masker}: {summary.steps} steps on {summary.images} images"
        f"{f', resumed at step {summary.resumed_at}' if summary.resumed_at else ''}; "
        f"loss {summary.loss:.3f}, embedding distance {summary.distance:.3f}, mask area {summary.area:.1%}"
    )
    if summary.fault is None:
        yield f"next: nemu build --masker {masker} --out {masker.parent.name}.nemu"


def encoder_of(options: argparse.Namespace) -> EncoderConfig:
    """The encoder configuration of parsed options."""
    size = options.image_size
    return EncoderConfig(
        encoder=options.encoder,
        weights=options.weights,
        embedding=options.embedding,
        l2_normalize=options.l2_normalize,
        image_size=None if size is None else (size[0], size[-1]),
        resize=options.resize,
        mean=None if options.mean is None else tuple(options.mean),
        std=None if options.std is None else tuple(options.std),
        taps=None if options.taps is None else tuple(options.taps),
    )


def config_of(options: argparse.Namespace) -> TrainConfig:
    """The training configuration of parsed options."""
    names = (
        "masker", "image_skip", "objective", "toward", "area_weight", "centred", "fill", "augment", "steps",
        "batch_size", "learning_rate", "weight_decay", "seed", "precision", "data",
    )  # fmt: skip
    return TrainConfig(encoder=encoder_of(options), **{n: getattr(options, n) for n in names})


if __name__ == "__main__":
    sys.exit(main())
