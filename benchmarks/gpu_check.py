"""python -m benchmarks.gpu_check OUTDIR: what this machine's GPU does; see gpu_check.sh.

Every step that touches the GPU runs in a process of its own, with a limit on its time: one that crashes or
hangs loses its own figures only, and its JSON says how it ended.  The whole ends in time: a step for which
too little is left is not begun, and is listed.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.gpu_package import find_package, run
from benchmarks.gpu_summary import summary
from benchmarks.record import meta, write
from runtime.backends import cuda
from runtime.backends.tensorrt_library import FLAVOURS, library
from runtime.errors import BackendUnavailable

STEPS = {"parity": 60, "latency": 130, "engines": 150, "tests": 110, "training": 120}
"""Seconds that each may take, of 9 minutes; of more or fewer minutes, in proportion.  Few take that long."""
LEAST = 15
"""Seconds left below which no step is begun."""
QUERY = "name,driver_version,compute_cap,memory.total,clocks.sm,clocks.mem,power.limit,persistence_mode"


def main(argv: list[str] | None = None) -> int:
    """Run every step; returns 0, 1 if one crashed or a test failed, 3 if parity failed."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    p.add_argument("out", type=Path, help="folder for the files")
    p.add_argument("--model", default="resnet50", help="timm model to time (%(default)s)")
    p.add_argument("--image-size", type=int, default=224)
    p.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    p.add_argument("--train-batch", type=int, help="of training; default 64 on a GPU, 4 on a CPU")
    p.add_argument("--seconds", type=float, help="per measurement; default 5 on a GPU, 2 on a CPU")
    p.add_argument("--minutes", type=float, default=9, help="for everything (%(default)s)")
    options = p.parse_args(argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))  # so that the step in progress ends too
    until = float(os.environ.get("STARTED") or time.time()) + 60 * options.minutes
    options.out.mkdir(parents=True, exist_ok=True)
    rest = [word for word in (sys.argv[1:] if argv is None else argv) if word != str(options.out)]
    os.environ["COMMAND"] = " ".join(["benchmarks/gpu_check.sh OUTDIR", *rest])

    results = {"environment": {"meta": meta(), **environment()}}
    write(options.out / "environment.json", results["environment"])
    with tempfile.TemporaryDirectory(prefix="nemu-gpu-check-") as folder:
        package, how = find_package(Path(folder), limit=10 * options.minutes)
        print(f"package: {how}", flush=True)
        for name in STEPS:
            command = functools.partial(_command, name, options, package)
            longest = STEPS[name] * options.minutes / 9
            path = options.out / f"{name}.json"
            results[name] = _step(name, command, path, until=until, longest=longest)
            results[name]["package"] = how
            write(path, results[name])
    text = "\n".join(summary(results))
    (options.out / "summary.md").write_text(text + "\n")
    print(text)
    if any("crashed" in result for result in results.values()):
        return 1
    return 3 if any(engine.get("failures") for engine in results["parity"].get("engines", [])) else 0


def environment() -> dict[str, Any]:
    """The driver, the GPUs and the TensorRT flavours that are here; for what is not, why."""
    found: dict[str, Any] = {"platform": platform.platform(), "wheels": os.environ.get("WHEELS", "")}
    found["nvidia_smi"] = _nvidia_smi()
    try:
        driver = cuda.driver()
        found["driver"] = asdict(driver)
        found["devices"] = [asdict(cuda.device(index)) for index in range(driver.devices)]
    except BackendUnavailable as error:
        found["driver"], found["devices"] = str(error), []
    found["tensorrt"] = {}
    for flavour in FLAVOURS:
        try:
            found["tensorrt"][flavour] = str(library(flavour).__version__)
        except BackendUnavailable as error:
            found["tensorrt"][flavour] = str(error)
    return found


def _command(
    name: str, options: argparse.Namespace, package: Path | None, path: Path, limit: float
) -> list[str]:
    """Module and arguments of a step that writes `path` and has `limit` seconds."""
    named = [] if package is None else ["--package", str(package)]
    if name == "parity":
        return ["benchmarks.gpu_parity", str(path), *named]
    if name == "tests":
        return ["benchmarks.gpu_tests", str(path), *named]
    model = ["--model", options.model, "--image-size", str(options.image_size)]
    if name == "training":
        gpu = shutil.which("nvidia-smi") is not None
        batch = options.train_batch or (64 if gpu else 4)
        rounds = ["--steps", "20" if gpu else "1", "--rounds", "2" if gpu else "1"]
        return ["benchmarks.training", "--json", str(path), *model, "--batch-size", str(batch), *rounds]
    # Nothing new is begun in the last third: what was begun must end, and a compilation takes its time.
    timing = ["--batch", *map(str, options.batch), "--budget", str(limit * 2 / 3)]
    timing += [] if options.seconds is None else ["--seconds", str(options.seconds)]
    if name == "latency":
        return ["benchmarks.gpu_latency", str(path), *model, *timing]
    return ["benchmarks.gpu_engine", str(path), *named, *model, *timing]


def _step(
    name: str, command: Callable[..., list[str]], path: Path, *, until: float, longest: float
) -> dict[str, Any]:
    """Run a step in its own process; its JSON, with `crashed` added if it did not end well."""
    path.unlink(missing_ok=True)
    left = until - time.time()
    if left < LEAST:
        return {
            "meta": meta(),
            "skipped": [{"what": name, "why": f"of the whole time, {left:.0f} s were left"}],
        }
    limit = min(longest, left)
    started = time.monotonic()
    returncode, stderr = run(*command(path, limit), limit=limit)
    sys.stderr.write(stderr)
    result: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"meta": meta()}
    result["seconds"] = time.monotonic() - started
    if returncode:
        result["crashed"] = {"returncode": returncode, "stderr": stderr[-4000:]}
    return result


def _nvidia_smi() -> list[dict[str, str]] | str:
    """What nvidia-smi answers, one record a GPU; it is only asked."""
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"], capture_output=True, text=True
        )
    except FileNotFoundError:
        return "nvidia-smi is not installed"
    if done.returncode:
        return f"nvidia-smi failed: {(done.stdout + done.stderr).strip()}"
    values = (line.split(", ") for line in done.stdout.strip().splitlines())
    return [dict(zip(QUERY.split(","), value, strict=True)) for value in values]


if __name__ == "__main__":
    sys.exit(main())
