"""Which engines are asked for: their form, precision, batch, and the targets that they are for."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from export.precision import AUTO, refusal
from export.targets import PORTABLE, Target
from runtime.backends.tensorrt_library import library
from runtime.manifest import TOWARD
from runtime.package import GRAPHS, TOWARD_GRAPHS, Package


@dataclass(frozen=True, kw_only=True)
class Request:
    """Which engines to build, and for whom the graph is to be checked."""

    targets: tuple[Target, ...]
    precision: str
    """Of `runtime.package.GRAPHS`, or `auto`: for each engine the first that passes every check."""
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
        """Fail now, not after minutes of work, if a library is missing.

        Raises:
            BackendUnavailable: with the command that installs it.
        """
        for target in self.targets:
            if target.flavour is not None:
                library(target.flavour)

    def jobs(self) -> list[tuple[Target, str]]:
        """Each target with each GPU that it builds an engine for; with "" where it only checks the graph."""
        return [(t, gpu) for t in self.targets for gpu in (t.engines if t.flavour else ("",))]

    @property
    def graphs(self) -> dict[str, str]:
        """Precision → the package's file that these engines are built from."""
        return TOWARD_GRAPHS if self.toward else GRAPHS

    @property
    def inputs(self) -> tuple[str, ...]:
        """Of these engines."""
        return ("image", TOWARD) if self.toward else ("image",)

    def precisions(self, package: Package) -> tuple[str, ...]:
        """What to try, in this order."""
        if self.precision != "auto":
            return (self.precision,)
        return tuple(p for p in AUTO if self.graphs.get(p) in package.manifest.files)

    def refused(self, package: Package) -> dict[str, str]:
        """Precision of this form → why the package was made without its graph.

        A graph for targets lies beside the plain one: what refused that refused both.
        """
        known = package.manifest.refused
        either = {p: known.get(refusal(p, toward=self.toward)) or known.get(refusal(p)) for p in self.graphs}
        return {p: why for p, why in either.items() if why}

    def for_targets(self, package: Package) -> Request:
        """The same of engines that take a target: in that precision, if the package has that form of it."""
        held = TOWARD_GRAPHS.get(self.precision) in package.manifest.files
        return dataclasses.replace(self, toward=True, precision=self.precision if held else "auto")

    def job(self, target: Target, gpu: str) -> str:
        """What is built or checked, for people."""
        return (f"{target.name} for {gpu}" if gpu else target.name) + ", for targets" * self.toward

    def options(self, precision: str) -> str:
        """Of the command that builds such an engine on the device."""
        forms = " --embedding-only" * self.embedding_only + " --toward" * self.toward
        return f"--precision {precision}{forms}"

    def name(self, target: Target, gpu: str, precision: str) -> str:
        """Of an engine: `rtx-sm75-fp16-b8`."""
        sm = "-sm" + gpu.replace(".", "") if target.flavour == "rtx" and gpu != PORTABLE else ""
        form = "-embedding" * self.embedding_only + "-toward" * self.toward
        return f"{target.flavour}{sm}-{precision}-b{self.batch[2]}{form}"
