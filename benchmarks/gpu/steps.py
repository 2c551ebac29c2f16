"""The steps of gpu_check in the order in which they run, and how one is run.

The steps that say most about this project come first.  Each runs in a process group of its own, with a limit
on its time.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from runtime.backends.ep_rtx import MODULE, RtxProviderBackend

FILES = ("environment", "cuda", "torch", "parity", "engines", "training", "tests")
"""The JSON files, besides the summary."""
EP_RTX = RtxProviderBackend.name
STARTED = "STEP_STARTED"
"""Environment variable with the time, of `time.time`, at which a step's process was started."""
_TRAIN = ("torch", "timm", "lightning", "safetensors", "onnx")
_PATH = "PATH"
"""Stands in a step's command for the file that it writes."""
_TICK = 3.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What decides which steps there are."""

    options: argparse.Namespace
    """Options of `gpu_check`."""
    package: Path | None
    gpu: bool


@dataclass(frozen=True, kw_only=True)
class Step:
    """One process, which writes one file or adds to it."""

    name: str
    file: str
    seconds: float
    """Limit where the whole check has 9 minutes; scaled where it has more or fewer.  Most steps need less."""
    command: tuple[str, ...]
    """Module and arguments, with `PATH` for the file."""
    budget: float | None = 0.85
    """Share of the limit that is given to the module as `--budget`; None: it has no such option."""
    gpu: bool = True
    """It needs a GPU."""
    needs: tuple[str, ...] = ()
    """Modules that it needs."""
    builds: tuple[tuple[str, str], ...] = ()
    """Flavour and form of the engines that are built before it, see `gpu.package.build_command`."""

    def missing(self, plan: Plan) -> str:
        """Why it cannot run here; empty if it can."""
        absent = [name for name in self.needs if find_spec(name) is None]
        if self.gpu and not plan.gpu:
            return "there is no GPU"
        return f"{', '.join(absent)}: not installed" if absent else ""

    def arguments(self, path: Path, limit: float) -> list[str]:
        """Module and arguments, to write `path` within `limit` seconds."""
        budget = [] if self.budget is None else ["--budget", str(self.budget * limit)]
        return [str(path) if word == _PATH else word for word in self.command] + budget


def steps(plan: Plan) -> Iterator[Step]:
    """Every step, in order."""
    options, package = plan.options, _option("--package", plan.package)
    batches = [str(batch) for batch in options.batch]
    yield _cuda(plan, "cuda", 60)
    yield _torch(plan, "torch, one image", 60, ["1"], ["eager", "graph"], gpu=False)
    yield _parity(package, "rtx", gpu=False)
    yield _engines(plan, "rtx")
    yield _training(plan)
    yield Step(
        name="ep-rtx", file="parity", seconds=60, budget=None, gpu=False, needs=("onnxruntime", MODULE),
        command=("benchmarks.gpu.parity", _PATH, *package, "--flavour", EP_RTX),
    )  # fmt: skip
    yield _torch(plan, "torch, batches", 50, batches, ["graph", "eager"])
    yield _torch(plan, "torch, compiled", 90, ["1", *batches], ["compile"])
    yield _cuda(plan, "soak", 45, "--soak")
    yield _parity(package, "tensorrt", gpu=True)
    yield _engines(plan, "tensorrt")
    yield Step(
        name="tests", file="tests", seconds=100, budget=None, needs=("pytest",),
        command=("benchmarks.gpu.tests", _PATH, *package),
    )  # fmt: skip


def _cuda(plan: Plan, name: str, seconds: float, *options: str) -> Step:
    few = ["--few"] if plan.options.dry else []
    timing = _option("--seconds", 8 * plan.options.seconds)
    return Step(
        name=name, file="cuda", seconds=seconds,
        command=("benchmarks.gpu.cuda", _PATH, *options, *few, *timing),
    )  # fmt: skip


def _torch(
    plan: Plan, name: str, seconds: float, batch: list[str], ways: list[str], *, gpu: bool = True
) -> Step:
    timing = _option("--seconds", plan.options.seconds)
    return Step(
        name=name, file="torch", seconds=seconds, gpu=gpu, needs=_TRAIN,
        command=("benchmarks.gpu.latency", _PATH, *_model(plan), "--batch", *batch, "--ways", *ways, *timing),
    )  # fmt: skip


def _parity(package: list[str], flavour: str, *, gpu: bool) -> Step:
    return Step(
        name=f"{flavour}: parity", file="parity", seconds=60, budget=None, gpu=gpu, needs=("onnxruntime",),
        builds=((flavour, "fused"), (flavour, "toward")),
        command=("benchmarks.gpu.parity", _PATH, *package, "--flavour", flavour),
    )  # fmt: skip


def _engines(plan: Plan, flavour: str) -> Step:
    package, timing = _option("--package", plan.package), _option("--seconds", plan.options.seconds)
    return Step(
        name=f"{flavour}: engines", file="engines", seconds=60, builds=((flavour, "encoder"),),
        command=("benchmarks.gpu.engine", _PATH, *package, "--flavour", flavour, *timing),
    )  # fmt: skip


def _training(plan: Plan) -> Step:
    batch = plan.options.train_batch or (32 if plan.gpu else 4)
    # On a GPU, more steps than the workers have batches ready when the first one is done.
    steps, rounds = ("30", "20") if plan.gpu and not plan.options.dry else ("1", "1")
    return Step(
        name="training", file="training", seconds=100, gpu=False, needs=_TRAIN,
        budget=0 if plan.options.dry else 2 / 3,
        command=(
            *("benchmarks.training", "--json", _PATH, *_model(plan)),
            *("--batch-size", str(batch), "--steps", steps, "--rounds", rounds),
        ),
    )  # fmt: skip


def _model(plan: Plan) -> list[str]:
    return ["--model", plan.options.model, "--image-size", str(plan.options.image_size)]


def _option(name: str, value: object) -> list[str]:
    return [] if value is None else [name, str(value)]


def run(
    module: str, *arguments: str, limit: float | None, tick: Callable[[], None] = lambda: None
) -> tuple[int, str]:
    """Run a module of the project; its exit status and its stderr.

    Args:
        limit: seconds after which it is killed, together with the processes that it started.
        tick: called every few seconds meanwhile.
    """
    until = None if limit is None else time.monotonic() + limit
    # A process group but no session: whoever ends the session of the whole check ends the step, too.
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        preexec_fn=os.setpgrp,
        env={**os.environ, STARTED: str(time.time())},
    ) as process:
        try:
            while True:
                left = _TICK if until is None else min(_TICK, until - time.monotonic())
                try:
                    stderr = process.communicate(timeout=max(left, 0.01))[1]
                    return process.returncode, stderr
                except subprocess.TimeoutExpired:
                    tick()
                    if until is not None and time.monotonic() >= until:
                        os.killpg(process.pid, signal.SIGKILL)
                        return -9, process.communicate()[1] + f"\nstopped after {limit:.0f} s"
        except BaseException:  # Ctrl-C or a signal from outside: the step must not go on alone
            os.killpg(process.pid, signal.SIGKILL)
            raise
