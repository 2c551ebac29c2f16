"""The steps of gpu_check, in the order in which they run: what says most about this project comes first."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from runtime.backends.ep_rtx import MODULE, RtxProviderBackend

FILES = ("environment", "cuda", "torch", "parity", "engines", "training", "tests")
"""What there is beside the summary."""
EP_RTX = RtxProviderBackend.name
TRAIN = ("torch", "timm", "lightning", "safetensors", "onnx")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the steps are told."""

    options: argparse.Namespace
    """Of `gpu_check`."""
    package: Path | None
    gpu: bool


@dataclass(frozen=True, kw_only=True)
class Step:
    """One process, which writes or adds to one file."""

    name: str
    file: str
    seconds: float
    """That it may take, of 9 minutes; of more or fewer, in proportion.  Few take that long."""
    module: str
    arguments: Callable[[Plan, float], list[str]]
    """From the plan and the seconds that it has."""
    gpu: bool = True
    """It is not begun without one."""
    needs: tuple[str, ...] = ()
    """Modules without which it is not begun."""
    builds: tuple[tuple[str, str], ...] = ()
    """Flavour and engine, see `gpu_package.build_command`, of what is built before if it is not there."""

    def missing(self, plan: Plan) -> str:
        """Why it cannot be begun here; empty if it can."""
        absent = [name for name in self.needs if find_spec(name) is None]
        if self.gpu and not plan.gpu:
            return "there is no GPU"
        return f"{', '.join(absent)}: not installed" if absent else ""

    def command(self, plan: Plan, path: Path, limit: float) -> list[str]:
        """Module and arguments, for a step that writes `path` and has `limit` seconds."""
        file = ["--json", str(path)] if self.module.endswith(".training") else [str(path)]
        return [self.module, *file, *self.arguments(plan, limit)]


def steps(plan: Plan) -> Iterator[Step]:
    """Every step, in order; eight files with the summary."""
    yield _cuda("cuda", 60)
    yield _torch("torch, one image", 60, ["1"], ["eager", "graph"], gpu=False)
    yield _parity("rtx", gpu=False)
    yield _engines("rtx")
    yield Step(
        name="training", file="training", seconds=100, module="benchmarks.training", arguments=_training,
        gpu=False, needs=TRAIN,
    )  # fmt: skip
    yield Step(
        name="ep-rtx", file="parity", seconds=60, module="benchmarks.gpu_parity",
        arguments=lambda plan, limit: [*_package(plan), "--flavour", EP_RTX], gpu=False,
        needs=("onnxruntime", MODULE),
    )  # fmt: skip
    batches = [str(batch) for batch in plan.options.batch]
    yield _torch("torch, batches", 50, batches, ["graph", "eager"], gpu=True)
    yield _torch("torch, compiled", 90, ["1", *batches], ["compile"], gpu=True)
    yield _cuda("soak", 45, "--soak")
    yield _parity("tensorrt", gpu=True)
    yield _engines("tensorrt")
    yield Step(
        name="tests", file="tests", seconds=100, module="benchmarks.gpu_tests",
        arguments=lambda plan, limit: _package(plan), needs=("pytest",),
    )  # fmt: skip


def _cuda(name: str, seconds: float, *options: str) -> Step:
    def arguments(plan: Plan, limit: float) -> list[str]:
        soak = min(8 * plan.options.seconds, limit * 2 / 3)  # the rest is for its beginning and end
        return [*options, *["--few"] * plan.options.dry, "--seconds", str(soak), *_budget(limit)]

    return Step(name=name, file="cuda", seconds=seconds, module="benchmarks.gpu_cuda", arguments=arguments)


def _torch(name: str, seconds: float, batch: list[str], ways: list[str], *, gpu: bool) -> Step:
    def arguments(plan: Plan, limit: float) -> list[str]:
        timing = ["--seconds", str(plan.options.seconds), *_budget(limit)]
        return [*_model(plan), "--batch", *batch, "--ways", *ways, *timing]

    return Step(
        name=name, file="torch", seconds=seconds, module="benchmarks.gpu_latency", arguments=arguments,
        gpu=gpu, needs=TRAIN,
    )  # fmt: skip


def _parity(flavour: str, *, gpu: bool) -> Step:
    return Step(
        name=f"{flavour}: parity", file="parity", seconds=60, module="benchmarks.gpu_parity", gpu=gpu,
        arguments=lambda plan, limit: [*_package(plan), "--flavour", flavour],
        builds=((flavour, "fused"), (flavour, "toward")), needs=("onnxruntime",),
    )  # fmt: skip


def _engines(flavour: str) -> Step:
    def arguments(plan: Plan, limit: float) -> list[str]:
        timing = ["--seconds", str(plan.options.seconds), *_budget(limit)]
        return [*_package(plan), "--flavour", flavour, *timing]

    return Step(
        name=f"{flavour}: engines", file="engines", seconds=60, module="benchmarks.gpu_engine",
        arguments=arguments, builds=((flavour, "encoder"),),
    )  # fmt: skip


def _training(plan: Plan, limit: float) -> list[str]:
    batch = plan.options.train_batch or (32 if plan.gpu else 4)
    long = plan.gpu and not plan.options.dry
    # More steps than the workers have batches ready when the first one is done.
    rounds = ["--steps", "30" if long else "1", "--rounds", "20" if long else "1"]
    budget = ["--budget", "0" if plan.options.dry else str(limit * 2 / 3)]
    return [*_model(plan), "--batch-size", str(batch), *rounds, *budget]


def _model(plan: Plan) -> list[str]:
    return ["--model", plan.options.model, "--image-size", str(plan.options.image_size)]


def _package(plan: Plan) -> list[str]:
    return [] if plan.package is None else ["--package", str(plan.package)]


def _budget(limit: float) -> list[str]:
    """What would take longer than this is not begun; the rest is to end in."""
    return ["--budget", str(limit * 0.85)]
