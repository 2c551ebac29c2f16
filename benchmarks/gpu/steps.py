"""The steps of gpu_check in the order in which they run, and how one is run.

Each step is a process of its own, with a limit on its time, and writes one file or adds to it.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from runtime.backends.choice import takes_targets
from runtime.backends.ep_rtx import MODULE, RtxProviderBackend
from runtime.backends.tensorrt.library import library
from runtime.errors import BackendUnavailable
from runtime.package.folder import Package
from runtime.package.manifest import EngineRecord

FORMS = {"fused": [], "toward": ["--toward"], "encoder": ["--embedding-only"]}
"""Form of an engine → options that build it: with the mask, with a mask toward a target, embedding only."""
CODE = "tests/gpu/test_cuda_code.py"
_TRAIN = ("torch", "timm", "lightning", "safetensors", "onnx")


class Step(NamedTuple):
    """One process."""

    name: str
    seconds: float | None
    """Limit where the whole check has 9 minutes; scaled where it has more or fewer.  Most steps need less.
    None: it has no limit, and its time does not count."""
    command: tuple[str, ...]
    """Module and arguments."""
    share: float | None = 0.85
    """Share of the limit after which the module begins nothing, by `--until`; None: it has no such option."""
    gpu: bool = True
    """It needs a GPU."""
    needs: tuple[str, ...] = ()
    """Modules that it needs."""

    def missing(self, *, gpu: bool) -> str:
        """Why it cannot run here; empty if it can."""
        absent = [name for name in self.needs if find_spec(name) is None]
        if self.gpu and not gpu:
            return "there is no GPU"
        return f"{', '.join(absent)}: not installed" if absent else ""


def steps(
    options: argparse.Namespace, package: Path | None, *, gpu: bool, capability: str = ""
) -> Iterator[Step]:
    """Every step; those that say most about this project come first.

    Args:
        options: of `gpu_check`.
        package: its engines are tried, and built if it lacks them.
        gpu: there is a GPU.
        capability: its compute capability, if that is known.
    """
    model = ("--model", options.model, "--image-size", str(options.image_size))
    seconds, batches = ("--seconds", str(options.seconds)), [str(batch) for batch in options.batch]
    torch = ("benchmarks.gpu.latency", f"{options.out}/torch.json", *model, *seconds, "--batch")
    pytest = ("pytest", "-v", "-p", "no:cacheprovider", "-m", "gpu")
    yield Step("cuda", 60, (*pytest, "--confcutdir=tests/gpu", CODE), share=None, needs=("pytest",))
    yield Step("torch, one image", 60, (*torch, "1", "--ways", "eager", "graph"), gpu=False, needs=_TRAIN)
    if package:
        yield from _engines(options, package, "rtx", gpu=gpu, capability=capability)
    batch = str(options.train_batch or (32 if gpu else 4))
    # On a GPU, more steps than the workers have batches ready when the first one is done.
    number, rounds = ("30", "20") if gpu and not options.dry else ("1", "1")
    often = ("--batch-size", batch, "--steps", number, "--rounds", rounds)
    train = ("benchmarks.training", "--json", f"{options.out}/training.json", *model, *often)
    yield Step("training", 100, train, share=0 if options.dry else 2 / 3, gpu=False, needs=_TRAIN)
    if package:
        provider = _parity(options, package, RtxProviderBackend.name)
        yield Step("ep-rtx", 60, provider, gpu=False, needs=("onnxruntime", MODULE))
    yield Step("torch, batches", 50, (*torch, *batches, "--ways", "graph", "eager"), needs=_TRAIN)
    yield Step("torch, compiled", 90, (*torch, "1", *batches, "--ways", "compile"), needs=_TRAIN)
    if package:
        yield from _engines(options, package, "tensorrt", gpu=gpu)
    yield Step(
        "tests", 100, (*pytest, "tests/gpu", f"--ignore={CODE}"), share=None, needs=("pytest", "filelock")
    )


def _parity(options: argparse.Namespace, package: Path, flavour: str) -> tuple[str, ...]:
    path = f"{options.out}/parity.json"
    return ("benchmarks.gpu.parity", path, "--package", str(package), "--flavour", flavour)


def _engines(
    options: argparse.Namespace, package: Path, flavour: str, *, gpu: bool, capability: str = ""
) -> Iterator[Step]:
    """Build the engines of a flavour that are lacking, check their outputs, time them."""
    if gpu or flavour == "rtx":  # only TensorRT-RTX builds without a GPU
        yield from builds(package, flavour, capability)
    yield Step(f"{flavour}: parity", 60, _parity(options, package, flavour), gpu=flavour != "rtx")
    timed = ("--package", str(package), "--flavour", flavour, "--seconds", str(options.seconds))
    yield Step(f"{flavour}: engines", 60, ("benchmarks.gpu.engine", f"{options.out}/engines.json", *timed))


def builds(package: Path, flavour: str, capability: str) -> Iterator[Step]:
    """Build each engine that the package lacks, if the library is here."""
    try:
        version = str(library(flavour).__version__)
    except BackendUnavailable:
        return
    opened = Package.open(package)
    records = [engine.record for engine in opened.engines()]
    there = {form_of(record) for record in records if (record.flavour, record.version) == (flavour, version)}
    rtx = "rtx-sm75" if capability == "7.5" else "rtx-portable"
    target = rtx if flavour == "rtx" else flavour
    for form, form_options in FORMS.items():
        if form not in there and (form != "toward" or takes_targets(opened)):
            build = ("--package", str(package), "--target", target, *form_options, "--force", "--quiet")
            command = ("export.build_engine", *build)
            yield Step(f"{flavour}: build {form}", None, command, share=None, gpu=False)


def form_of(record: EngineRecord) -> str:
    """A key of `FORMS`."""
    return "encoder" if record.embedding_only else "toward" if record.takes_target else "fused"


def run(module: str, *arguments: str, limit: float | None) -> tuple[int, str]:
    """Run a module; its exit status, and what it printed.

    Args:
        limit: seconds after which it is killed, together with the processes that it started.
    """
    # A process group but no session: whoever ends the session of the whole check ends the step, too.
    with subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        preexec_fn=os.setpgrp,
    ) as process:
        try:
            printed = process.communicate(timeout=limit)[0]
        except BaseException as error:  # also Ctrl-C or a signal from outside: the step must not go on alone
            os.killpg(process.pid, signal.SIGKILL)
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
            printed = process.communicate()[0] + f"\nstopped after {limit:.0f} s"
    return process.returncode, printed
