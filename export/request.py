"""The command line of `nemu build`, and what it asks for: the source of a package, and engines."""

from __future__ import annotations

import argparse
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from export import targets
from export.graph.gate import refused_key
from export.targets import PORTABLE, Target
from runtime.backends.tensorrt.library import library
from runtime.cli import console
from runtime.errors import InputError
from runtime.package.folder import GRAPHS, TOWARD_GRAPHS, Package
from runtime.package.manifest import TOWARD
from runtime.package.reasons import Reason

if TYPE_CHECKING:
    from export.package.source import Source

DESCRIPTION = """Fuse a masker and its encoder into one package; build engines for devices.

Two uses:
  --masker … --out x.nemu     makes a package: ONNX graphs, reference, model card, and engines (needs torch)
  --package x.nemu            adds the engines this machine can build, from the package's own ONNX (no torch);
                              --embedding-only: engines that give no mask, for indexing in bulk
                              --toward: engines that take a target for each image
"""
EXAMPLE = f"""targets:
{chr(10).join(f"  {t.name:13}{t.what}" for t in targets.TARGETS.values())}

examples:
  nemu build --masker runs/x/masker.safetensors --target rtx --target jetpack6 --out x.nemu
  nemu build --package x.nemu                           # on the device
  nemu build --package x.nemu --batch 1:32:32 --embedding-only
  nemu build --package x.nemu --target jetpack6         # check the graph, build nothing

exit codes: 0 ok (warnings name what was left out), 1 error, 2 usage, 3 refused by the parity gate
"""
AUTO = ("fp16", "int8", "bf16", "fp32")
"""The order in which `--precision auto` tries the precisions that the package holds."""
_WITH_MASKER = ("out", "weights", "reference", "calibration", "evaluate")


class Job(NamedTuple):
    """One engine to build, or one check of the graph."""

    target: Target
    gpu: str
    """Compute capability, or `portable`; empty where the graph is only checked."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """Which engines to build, and for which targets to check the graph."""

    targets: tuple[Target, ...]
    precision: str
    """One of `runtime.package.folder.GRAPHS`; `auto`: for each engine the first that passes every check."""
    batch: tuple[int, int, int]
    """min, opt, max"""
    workspace_bytes: int | None = None
    embedding_only: bool = False
    """Engines that give no mask, for indexing."""
    toward: bool = False
    """Engines that take a target for each image."""
    progress: bool = True
    force: bool = False

    def check(self) -> None:
        """Fail before minutes of work if a library is missing.

        Raises:
            BackendUnavailable: with the command that installs it.
        """
        for target in self.targets:
            if target.flavour is not None:
                library(target.flavour)

    def jobs(self) -> list[Job]:
        """Each target with each GPU that an engine is built for."""
        return [Job(t, gpu) for t in self.targets for gpu in (t.engines if t.flavour else ("",))]

    @property
    def graphs(self) -> dict[str, str]:
        """Precision → the package's file that these engines are built from."""
        return TOWARD_GRAPHS if self.toward else GRAPHS

    @property
    def inputs(self) -> tuple[str, ...]:
        """Input names of these engines."""
        return ("image", TOWARD) if self.toward else ("image",)

    def precisions(self, package: Package) -> tuple[str, ...]:
        """The precisions to try, in this order."""
        if self.precision != "auto":
            return (self.precision,)
        return tuple(p for p in AUTO if self.graphs.get(p) in package.manifest.files)

    def refused(self, package: Package) -> dict[str, Reason]:
        """Precision of this form → why the package was made without its graph.

        A graph for targets is made only beside a plain one: if that was refused, both were.
        """
        known = package.manifest.refused
        either = {p: known.get(refused_key(p, toward=self.toward)) or known.get(p) for p in self.graphs}
        return {p: why for p, why in either.items() if why}

    def for_targets(self, package: Package) -> Request:
        """The request for engines that take a target; `auto` if the package has none of its precision."""
        held = TOWARD_GRAPHS.get(self.precision) in package.manifest.files
        return dataclasses.replace(self, toward=True, precision=self.precision if held else "auto")

    def label(self, job: Job) -> str:
        """What is built or checked: `rtx for 7.5`."""
        name = job.target.name
        return (f"{name} for {job.gpu}" if job.gpu else name) + ", for targets" * self.toward

    def options(self, precision: str) -> str:
        """Options of the command that builds such an engine on the device."""
        forms = " --embedding-only" * self.embedding_only + " --toward" * self.toward
        return f"--precision {precision}{forms}"

    def name(self, job: Job, precision: str) -> str:
        """Name of an engine: `rtx-sm75-fp16-b8`."""
        flavour = job.target.flavour
        sm = "-sm" + job.gpu.replace(".", "") if flavour == "rtx" and job.gpu != PORTABLE else ""
        form = "-embedding" * self.embedding_only + "-toward" * self.toward
        return f"{flavour}{sm}-{precision}-b{self.batch[2]}{form}"


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="nemu build",
        description=DESCRIPTION,
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = p.add_mutually_exclusive_group(required=True)
    source.add_argument("--masker", type=Path, help="masker.safetensors from nemu train")
    source.add_argument("--package", type=Path, help="an existing package, to add engines to")
    _add_package_options(p.add_argument_group("with --masker"))
    _add_engine_options(p)
    p.add_argument("--force", action="store_true", help="replace a package or engine that is already there")
    console.add_arguments(p)
    return p


def _add_package_options(p: argparse._ArgumentGroup) -> None:
    p.add_argument("--out", type=Path, help="the package to make, NAME.nemu")
    p.add_argument("--weights", help="where the encoder's weights are now")
    p.add_argument("--reference", type=Path, metavar="FOLDER", help="photographs to check with and to ship")
    p.add_argument(
        "--calibration",
        type=Path,
        metavar="FOLDER",
        help="photographs that int8 takes its ranges from and that the range of fp16 is checked on "
        "(default: the reference images)",
    )
    p.add_argument(
        "--evaluate",
        type=Path,
        metavar="FOLDER",
        help="photographs that the model card's metrics are measured on, best ones that training did not "
        "see; they are not shipped (default: the reference images)",
    )
    p.add_argument("--no-simplify", action="store_true", help="do not run onnxsim")


def _add_engine_options(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--precision",
        choices=("auto", *GRAPHS),
        default="auto",
        help="inside the engine; auto (default) takes for each engine fp16 if its range and the gate allow, "
        "else bf16, else fp32, of what the package holds; it says why",
    )
    p.add_argument("--batch", default="1:1:8", metavar="MIN:OPT:MAX", help="batch sizes (%(default)s)")
    p.add_argument(
        "--target",
        action="append",
        metavar="NAME",
        help="see below; repeatable; default: onnx with --masker, what is installed here with --package",
    )
    p.add_argument(
        "--embedding-only",
        action="store_true",
        help="engines without the mask and all that only the mask needs (with --package)",
    )
    p.add_argument(
        "--toward",
        action="store_true",
        help="engines that take a target, for explainer(image, toward=…), beside plain ones of the same "
        "precision (with --package; a new package whose masker takes targets gets both forms)",
    )
    p.add_argument("--workspace", type=int, metavar="MIB", help="limit of the builder's scratch memory")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The options; exits with code 2 where some do not go together."""
    p = parser()
    options = p.parse_args(argv)
    if options.masker and not options.out:
        p.error("--masker needs --out NAME.nemu")
    if options.package and any(getattr(options, name) for name in _WITH_MASKER):
        p.error(", ".join(f"--{name}" for name in _WITH_MASKER) + " go with --masker")
    if options.masker and options.embedding_only:
        p.error("--embedding-only goes with --package: it adds engines to those that explain")
    if options.masker and options.toward:
        p.error("--toward goes with --package: a new package whose masker takes targets gets both forms")
    if options.toward and options.embedding_only:
        p.error("--toward and --embedding-only are two forms: build one, then the other")
    if options.calibration and options.precision in ("fp32", "bf16"):
        p.error("--calibration goes with --precision auto, fp16 or int8")
    return options


def engine_request(options: argparse.Namespace) -> Request:
    """Which engines are asked for; for a package without --target, those that this machine can build."""
    names = dict.fromkeys(options.target or ())
    here = options.package and not names
    return Request(
        targets=(targets.default(),) if here else tuple(targets.find(name) for name in names),
        precision=options.precision,
        batch=_batch(options.batch),
        workspace_bytes=None if options.workspace is None else options.workspace << 20,
        embedding_only=options.embedding_only,
        toward=options.toward,
        progress=not options.quiet,
        force=options.force,
    )


def package_source(options: argparse.Namespace) -> Source:
    """What the new package is made from."""
    from export.package.source import Source  # imports torch

    return Source(
        masker=options.masker,
        weights=options.weights,
        reference=options.reference,
        calibration=options.calibration,
        evaluate=options.evaluate,
        precision=options.precision,
        simplify=not options.no_simplify,
    )


def _batch(text: str) -> tuple[int, int, int]:
    parts = text.split(":")
    if not all(part.isdigit() for part in parts) or len(parts) not in (1, 3):
        raise InputError(f"--batch {text}", expected="N, or MIN:OPT:MAX", cure="--batch 1:1:8")
    low, best, high = (int(part) for part in (parts if len(parts) == 3 else parts * 3))
    if not 1 <= low <= best <= high:
        raise InputError(f"--batch {text}", expected="1 <= MIN <= OPT <= MAX", cure="--batch 1:1:8")
    return low, best, high
