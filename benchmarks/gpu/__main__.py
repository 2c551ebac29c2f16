"""python -m benchmarks.gpu OUTDIR: measure and check this machine's GPU; see gpu_check.sh.

The steps that say most come first.  Every step runs in a process of its own, with a limit on its time, and
writes its JSON as it goes.  One that crashes, hangs or is stopped leaves what it has written, and the next
one runs.  The summary is written again every few seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.common.record import meta, write
from benchmarks.gpu.package import build_command, find_package
from benchmarks.gpu.steps import FILES, Plan, Step, run, steps
from benchmarks.gpu.summary import summary
from runtime.backends import cuda, ep_rtx
from runtime.backends.tensorrt.library import FLAVOURS, library
from runtime.errors import BackendUnavailable

LEAST = 15
"""No step is begun with fewer seconds left."""
DRY = {"model": "test_resnet", "image_size": 96, "batch": [2], "seconds": 0.1, "train_batch": 2}
"""Options of a dry run."""
QUERY = "name,driver_version,compute_cap,memory.total,clocks.sm,clocks.mem,power.limit,persistence_mode"


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
    for name in (*(f"{file}.json" for file in FILES), "summary.md"):
        (options.out / name).unlink(missing_ok=True)
    rest = [word for word in (sys.argv[1:] if argv is None else argv) if word != str(options.out)]
    os.environ["COMMAND"] = " ".join(["benchmarks/gpu_check.sh OUTDIR", *rest])
    check = Check(options.out, until=float(os.environ.get("STARTED") or time.time()) + 60 * options.minutes)
    with tempfile.TemporaryDirectory(prefix="nemu-gpu-check-") as folder:
        package, how = find_package(Path(folder))
        found = environment()
        check.note("environment", {"meta": meta(), "dry": options.dry, "package": how, **found})
        plan = Plan(options=options, package=package, gpu=bool(found["devices"]) or found["nvidia_smi_works"])
        for step in steps(plan):
            check.step(step, plan)
    print((options.out / "summary.md").read_text())
    return check.status()


class Check:
    """The files in `out`, and the running of the steps that write them.

    Args:
        until: time, as `time.time` has it, after which nothing is begun.
    """

    def __init__(self, out: Path, *, until: float) -> None:
        self._out, self._until = out, until

    def note(self, file: str, content: dict[str, Any]) -> None:
        """Write a file, and the summary of all files."""
        write(self._out / f"{file}.json", content)
        self.summarise()

    def summarise(self) -> None:
        """Write the summary of the files that are there by now."""
        (self._out / "summary.md").write_text("\n".join(summary(self._results())) + "\n")

    def step(self, step: Step, plan: Plan) -> None:
        """Run a step in a process of its own and note in its file how it ended."""
        if why := step.missing(plan):
            self._skip(step, why)
            return
        for engine in step.builds:
            if self._until - time.time() > LEAST:
                self._build(": build ".join(engine), build_command(plan.package, *engine))
        left = self._until - time.time()
        if left < LEAST:
            self._skip(step, f"{max(left, 0):.0f} s of the whole time were left, {LEAST} are needed")
            return
        limit = min(step.seconds * plan.options.minutes / 9, left)
        self._run(step.name, step.file, step.arguments(self._out / f"{step.file}.json", limit), limit)

    def status(self) -> int:
        """The exit status, see `main`."""
        results = self._results()
        if any("crashed" in result for result in results.values()):
            return 1
        engines = results.get("parity", {}).get("engines", [])
        return 3 if any(engine.get("failures") for engine in engines) else 0

    def _build(self, name: str, command: list[str]) -> None:
        """Build an engine without a limit; the time for it does not count."""
        if command:
            started = time.time()
            self._run(name, "parity", command, None)
            self._until += time.time() - started

    def _run(self, name: str, file: str, command: list[str], limit: float | None) -> None:
        started = time.monotonic()
        status, stderr = run(*command, limit=limit, tick=self.summarise)
        sys.stderr.write(stderr)
        content = self._read(file)
        content.setdefault("seconds", {})[name] = time.monotonic() - started
        if status:
            content.setdefault("crashed", {})[name] = {"returncode": status, "stderr": stderr[-4000:]}
        self.note(file, content)

    def _skip(self, step: Step, why: str) -> None:
        content = self._read(step.file)
        content.setdefault("skipped", []).append({"what": step.name, "why": why})
        self.note(step.file, content)

    def _read(self, file: str) -> dict[str, Any]:
        return self._results().get(file) or {"meta": meta()}

    def _results(self) -> dict[str, Any]:
        """The content of the files that are there; each is complete, because it is written atomically."""
        paths = [self._out / f"{file}.json" for file in FILES]
        return {path.stem: json.loads(path.read_text()) for path in paths if path.is_file()}


def environment() -> dict[str, Any]:
    """Driver, GPUs and TensorRT flavours of this machine, or why they are missing.  Nothing is changed."""
    smi = _nvidia_smi()
    found: dict[str, Any] = {
        "platform": platform.platform(),
        "wheels": os.environ.get("WHEELS", ""),
        "nvidia_smi": smi,
        "nvidia_smi_works": isinstance(smi, list),
    }
    try:
        driver = cuda.driver()
        found["driver"] = asdict(driver)
        found["devices"] = [asdict(cuda.device(index)) for index in range(driver.devices)]
    except BackendUnavailable as error:
        found["driver"], found["devices"] = str(error), []
    found["tensorrt"] = {name: _version(name) for name in (*FLAVOURS, ep_rtx.RtxProviderBackend.name)}
    return found


def _version(flavour: str) -> str:
    try:
        if flavour in FLAVOURS:
            return str(library(flavour).__version__)
        return f"{ep_rtx.provider().__version__}, {len(ep_rtx.devices())} card(s)"
    except BackendUnavailable as error:
        return str(error)


def _nvidia_smi() -> list[dict[str, str]] | str:
    """The answer of nvidia-smi, one record for each GPU, or why there is none."""
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"], capture_output=True, text=True
        )
    except FileNotFoundError:
        return "nvidia-smi is not installed"
    if done.returncode:
        return f"nvidia-smi failed: {(done.stdout + done.stderr).strip()}"
    values = (line.split(", ") for line in done.stdout.strip().splitlines())
    return [dict(zip(QUERY.split(","), value, strict=False)) for value in values]


if __name__ == "__main__":
    sys.exit(main())
