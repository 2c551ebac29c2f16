"""python -m benchmarks.gpu OUTDIR: measure and check this machine's GPU; see gpu_check.sh.

Every step runs in a process of its own, with a limit on its time, and writes its file as it goes.  One that
crashes, hangs or is stopped leaves what it has written, and the next one runs.  The summary is written again
after every step.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.common.record import exits, meta, write
from benchmarks.gpu.steps import Step, run, steps
from benchmarks.gpu.summary import FILES, read, summary
from runtime.backends import cuda, ep_rtx
from runtime.backends.tensorrt.library import FLAVOURS, library
from runtime.cli.bench import conditions
from runtime.cli.doctor import nvidia_driver
from runtime.errors import BackendUnavailable
from runtime.package.folder import Package

LEAST = 15
"""No step is begun with fewer seconds left."""
DRY = {"model": "test_resnet", "image_size": 96, "batch": [2], "seconds": 0.1, "train_batch": 2}
"""Options of a dry run."""
DEMO = Path("demo/out/demo.nemu")


@exits
def main(argv: list[str] | None = None) -> int:
    """Run every step; returns 0, 1 if one crashed or a test failed, 3 if parity failed."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    p.add_argument("out", type=Path, help="folder for the files")
    p.add_argument("--dry", action="store_true", help="the smallest encoder, once: does everything start?")
    p.add_argument("--model", default="resnet50", help="timm model to time and to train with (%(default)s)")
    p.add_argument("--image-size", type=int, default=224)
    p.add_argument("--batch", type=int, nargs="+", default=[8, 32], help="batch sizes for PyTorch, besides 1")
    p.add_argument("--train-batch", type=int, help="batch size of training (32 on a GPU, 4 on a CPU)")
    p.add_argument("--seconds", type=float, default=5, help="per measurement, of 9 minutes (%(default)s)")
    p.add_argument("--minutes", type=float, default=9, help="for everything but building engines")
    options = p.parse_args(argv)
    if options.dry:
        vars(options).update(DRY)
    options.seconds *= min(1, options.minutes / 9)  # scaled like the limits of the steps
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that the running step ends too
    options.out.mkdir(parents=True, exist_ok=True)
    for name in (*FILES, "summary.md"):
        (options.out / name).unlink(missing_ok=True)
    rest = [word for word in (sys.argv[1:] if argv is None else argv) if word != str(options.out)]
    os.environ["COMMAND"] = " ".join(["benchmarks/gpu_check.sh OUTDIR", *rest])
    os.environ["NEMU_GPU_REPORT"] = str((options.out / "tests.jsonl").absolute())
    if options.dry:
        os.environ["NEMU_GPU_FEW"] = "1"
    with tempfile.TemporaryDirectory(prefix="nemu-gpu-check-") as folder:
        given = Path(os.environ.get("PACKAGE") or DEMO)
        package, said = None, f"{given} does not exist: make demo writes it, and PACKAGE names another"
        if given.is_dir():  # a copy, so that engines can be added
            Package.open(given)
            package, said = shutil.copytree(given, Path(folder) / given.name), str(given)
            os.environ["NEMU_GPU_PACKAGE"] = str(package)
        found = {"meta": meta(), "dry": options.dry, "package": said, **environment()}
        check = Check(options, found)
        capability = found["devices"][0]["compute_capability"] if found["devices"] else ""
        for step in steps(options, package, gpu=found["gpu"], capability=capability):
            check.step(step)
    print((options.out / "summary.md").read_text())
    return check.status()


class Check:
    """Runs steps, and writes `environment.json`, with how each step ended, and the summary.

    Args:
        options: of the command.
        found: what is known of the machine.
    """

    def __init__(self, options: argparse.Namespace, found: dict[str, Any]) -> None:
        self.out: Path = options.out
        self.minutes: float = options.minutes
        self.until = float(os.environ.get("STARTED") or time.time()) + 60 * options.minutes
        self.found = {**found, "seconds": {}, "skipped": [], "crashed": {}}
        self.save()

    def save(self) -> None:
        """Write both files."""
        write(self.out / "environment.json", self.found)
        (self.out / "summary.md").write_text("\n".join(summary(read(self.out))) + "\n")

    def step(self, step: Step) -> None:
        """Run a step in a process of its own and note how it ended."""
        left, started = self.until - time.time(), time.time()
        why = step.missing(gpu=self.found["gpu"])
        if not why and left < LEAST:
            why = f"{max(left, 0):.0f} s of the whole time were left, {LEAST} are needed"
        if why:
            self.found["skipped"].append({"what": step.name, "why": why})
            self.save()
            return
        limit = None if step.seconds is None else min(step.seconds * self.minutes / 9, left)
        until = () if limit is None or step.share is None else ("--until", str(started + step.share * limit))
        status, printed = run(*step.command, *until, limit=limit)
        sys.stderr.write(printed)
        taken = self.found["seconds"][step.name] = time.time() - started
        if limit is None:
            self.until += taken
        if status:
            self.found["crashed"][step.name] = {"returncode": status, "printed": printed[-4000:]}
        self.save()

    def status(self) -> int:
        """The exit status, see `main`."""
        if self.found["crashed"]:
            return 1
        engines = read(self.out).get("parity", {}).get("engines", [])
        return 3 if any(engine.get("failures") for engine in engines) else 0


def environment() -> dict[str, Any]:
    """Driver, GPUs, clocks and TensorRT flavours of this machine, or why they are missing."""
    nvidia = nvidia_driver()
    found: dict[str, Any] = {
        "platform": platform.platform(),
        "wheels": os.environ.get("WHEELS", ""),
        "nvidia": nvidia,
        "clocks": conditions().clocks,
        "tensorrt": {name: _version(name) for name in (*FLAVOURS, ep_rtx.RtxProviderBackend.name)},
    }
    try:
        driver = cuda.driver()
        found["driver"] = asdict(driver)
        found["devices"] = [asdict(cuda.device(index)) for index in range(driver.devices)]
    except BackendUnavailable as error:
        found["driver"], found["devices"] = error.came, []
    return {**found, "gpu": bool(found["devices"] or nvidia)}


def _version(flavour: str) -> str:
    try:
        if flavour in FLAVOURS:
            return str(library(flavour).__version__)
        return f"{ep_rtx.provider().__version__}, {len(ep_rtx.devices())} card(s)"
    except BackendUnavailable as error:
        return error.came


if __name__ == "__main__":
    sys.exit(main())
