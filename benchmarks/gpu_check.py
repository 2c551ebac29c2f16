"""python -m benchmarks.gpu_check OUTDIR: what this machine's GPU does; see gpu_check.sh.

What says most comes first.  Every step runs in a process of its own, with a limit on its time, and writes its
JSON as it goes: one that crashes, hangs or is cut leaves what it had, and the next one runs.  The summary is
written again every few seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu_environment import environment
from benchmarks.gpu_package import build_command, find_package
from benchmarks.gpu_process import run
from benchmarks.gpu_steps import FILES, Plan, Step, steps
from benchmarks.gpu_summary import summary
from benchmarks.record import meta, write

LEAST = 15
"""Seconds left below which no step is begun."""
DRY = {"model": "test_resnet", "image_size": 96, "batch": [2], "seconds": 0.1, "train_batch": 2}
"""What a dry run does less of."""


def main(argv: list[str] | None = None) -> int:
    """Run every step; returns 0, 1 if one crashed or a test failed, 3 if parity failed."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    p.add_argument("out", type=Path, help="folder for the files")
    p.add_argument("--dry", action="store_true", help="the smallest encoder, once: does everything start?")
    p.add_argument("--model", default="resnet50", help="timm model to time and train with (%(default)s)")
    p.add_argument("--image-size", type=int, default=224)
    p.add_argument("--batch", type=int, nargs="+", default=[8, 32], help="of PyTorch, besides one image")
    p.add_argument("--train-batch", type=int, help="of training; default 32 on a GPU, 4 on a CPU")
    p.add_argument("--seconds", type=float, default=5, help="per measurement, of 9 minutes (%(default)s)")
    p.add_argument("--minutes", type=float, default=9, help="for everything but building engines")
    options = p.parse_args(argv)
    if options.dry:
        vars(options).update(DRY)
    options.seconds *= min(1, options.minutes / 9)  # as the steps' limits
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that the step in progress ends too
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
    """The files in `out`, and the steps that fill them.

    Args:
        until: of `time.time`; nothing is begun after it.
    """

    def __init__(self, out: Path, *, until: float) -> None:
        self._out, self._until = out, until

    def note(self, file: str, content: dict[str, Any]) -> None:
        """Write a file, and the summary of all."""
        write(self._out / f"{file}.json", content)
        self.summarise()

    def summarise(self) -> None:
        """Write the summary of what is there by now."""
        (self._out / "summary.md").write_text("\n".join(summary(self._results())) + "\n")

    def step(self, step: Step, plan: Plan) -> None:
        """Run a step in a process of its own; its file then says how it ended."""
        if why := step.missing(plan):
            self._skip(step, why)
            return
        for engine in step.builds:
            if self._until - time.time() > LEAST:
                self._build(": build ".join(engine), build_command(plan.package, *engine))
        left = self._until - time.time()
        if left < LEAST:
            self._skip(step, f"of the whole time, {left:.0f} s were left")
            return
        limit = min(step.seconds * plan.options.minutes / 9, left)
        path = self._out / f"{step.file}.json"
        self._run(step.name, step.file, step.command(plan, path, limit), limit)

    def _build(self, name: str, command: list[str]) -> None:
        """Build an engine, which takes as long as it takes: the clock stands still."""
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
            end = {"returncode": status, "stderr": stderr[-4000:]}
            content.setdefault("crashed", {})[name] = end
        self.note(file, content)

    def status(self) -> int:
        """See `main`."""
        results = self._results()
        if any("crashed" in result for result in results.values()):
            return 1
        engines = results.get("parity", {}).get("engines", [])
        return 3 if any(engine.get("failures") for engine in engines) else 0

    def _results(self) -> dict[str, Any]:
        """What the steps have written: every file is there whole, or not at all."""
        paths = [self._out / f"{file}.json" for file in FILES]
        return {path.stem: json.loads(path.read_text()) for path in paths if path.is_file()}

    def _read(self, file: str) -> dict[str, Any]:
        return self._results().get(file) or {"meta": meta()}

    def _skip(self, step: Step, why: str) -> None:
        content = self._read(step.file)
        content.setdefault("skipped", []).append({"what": step.name, "why": why})
        self.note(step.file, content)


if __name__ == "__main__":
    sys.exit(main())
