"""Which engines are asked for: their form, precision, batch and targets."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import NamedTuple

from export.graph.precision import AUTO
from export.graph.refusals import refused_key
from export.targets import PORTABLE, Target
from runtime.backends.tensorrt.library import library
from runtime.package.folder import GRAPHS, TOWARD_GRAPHS, Package
from runtime.package.manifest import TOWARD
from runtime.package.reasons import Reason


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
