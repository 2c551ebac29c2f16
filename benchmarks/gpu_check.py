"""python -m benchmarks.gpu_check OUTDIR: what this machine's GPU does; see gpu_check.sh.

Environment, parity of engines, latency (encoder, fused, the authors' decoder and way; batches), the package
by every backend and precision, and training throughput against the authors' loop.

Every step that touches the GPU runs in a process of its own: one that crashes loses its own figures only,
and its JSON says how it ended.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from benchmarks.record import meta, write
from runtime.backends import cuda
from runtime.backends.tensorrt_library import FLAVOURS, library
from runtime.errors import BackendUnavailable, NemuError
from runtime.package import Package

LONGEST = 240
"""Seconds that a step may take."""
DEMO = Path("demo/out/demo.nemu")
QUERY = "name,driver_version,compute_cap,memory.total,clocks.sm,clocks.mem,power.limit,persistence_mode"


def main(argv: list[str] | None = None) -> int:
    """Run every step; returns 0, 1 if one crashed, 3 if parity failed."""
    p = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    p.add_argument("out", type=Path, help="folder for the JSON files")
    p.add_argument("--model", default="resnet50", help="timm model to time (%(default)s)")
    p.add_argument("--image-size", type=int, default=224)
    p.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    p.add_argument("--train-batch", type=int, help="of training; default 64 on a GPU, 4 on a CPU")
    p.add_argument("--seconds", type=float, help="per measurement; default 5 on a GPU, 2 on a CPU")
    options = p.parse_args(argv)
    options.out.mkdir(parents=True, exist_ok=True)
    rest = [word for word in (sys.argv[1:] if argv is None else argv) if word != str(options.out)]
    os.environ["COMMAND"] = " ".join(["benchmarks/gpu_check.sh OUTDIR", *rest])

    write(options.out / "environment.json", {"meta": meta(), **environment()})
    with tempfile.TemporaryDirectory(prefix="nemu-gpu-check-") as folder:
        package, how = find_package(Path(folder))
        print(f"package: {how}", flush=True)
        timing = ["--model", options.model, "--image-size", str(options.image_size)]
        timing += ["--batch", *map(str, options.batch)]
        timing += [] if options.seconds is None else ["--seconds", str(options.seconds)]
        named = [] if package is None else ["--package", str(package)]
        files = {step: options.out / f"{step}.json" for step in ("parity", "latency", "training")}
        parity = _step("benchmarks.gpu_parity", [str(files["parity"]), *named], files["parity"], how)
        arguments = [str(files["latency"]), *named, *timing]
        latency = _step("benchmarks.gpu_latency", arguments, files["latency"], how)
        arguments = ["--json", str(files["training"]), *_training(options)]
        training = _step("benchmarks.training", arguments, files["training"], how)
    print("\n".join(summary(parity, latency, training)))
    if any("crashed" in step for step in (parity, latency, training)):
        return 1
    return 3 if any(engine.get("failures") for engine in parity["engines"]) else 0


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


def find_package(work: Path) -> tuple[Path | None, str]:
    """The package to check, with an engine of this TensorRT-RTX if that is here; and how it came about."""
    given = Path(os.environ.get("PACKAGE") or DEMO)
    said = []
    if given.is_dir():
        package = work / given.name
        shutil.copytree(given, package)  # engines are added to the copy
        said.append(str(given))
    elif "PACKAGE" in os.environ:
        return None, f"PACKAGE={given} is not there"
    else:
        package = work / "small.nemu"
        failure = _make(work, package)
        if failure:
            return None, f"{DEMO} is not there, and none could be made: {failure}"
        said.append(f"{DEMO} is not there; made a small one with an untrained masker")
    if find_spec("tensorrt_rtx") and not _has_engine(package):
        failure = _run(
            "export.build_engine", "--package", str(package), "--target", "rtx", "--force", "--quiet"
        )
        said.append(f"no RTX engine: {failure}" if failure else "its RTX engine was built here")
    return package, "; ".join(said)


def summary(parity: dict[str, Any], latency: dict[str, Any], training: dict[str, Any]) -> list[str]:
    """Readable lines: what ran, what did not and why."""
    lines = []
    for engine in parity.get("engines", []):
        said = engine.get("error") or engine.get("failures") or "within the gate"
        lines.append(f"engine {engine['engine']}: {said}")
    for row in latency.get("rows", []):
        ratio = row["ratio_to_encoder"]
        lines.append(
            f"{row['backend']:<28} {row['variant']:<8} {row['precision']} {row['model']}@{row['image_size']} "
            f"batch {row['batch']}: median {row['median_ms']:.3f} ms, p99 {row['p99_ms']:.3f} ms"
            + (f", {ratio:.3f} of the encoder" if ratio else "")
        )
    lines += [
        f"training {row['variant']}: {row['images_per_second']:.1f} images/s, "
        f"{row['ratio_to_authors_loop']:.2f} of the authors' loop"
        for row in training.get("rows", [])
    ]
    for result in (parity, latency, training):
        lines += [f"skipped: {s['what']}: {s['why']}" for s in result.get("skipped", [])]
        if "crashed" in result:
            lines.append(f"CRASHED: {result['crashed']}")
    return lines


def _training(options: argparse.Namespace) -> list[str]:
    """What is trained: enough for a GPU to be busy, little where there is none."""
    gpu = shutil.which("nvidia-smi") is not None
    batch = options.train_batch or (64 if gpu else 4)
    size = ["--model", options.model, "--image-size", str(options.image_size), "--batch-size", str(batch)]
    return [*size, "--steps", "20" if gpu else "1", "--rounds", "5" if gpu else "1"]


def _step(module: str, arguments: list[str], path: Path, package: str) -> dict[str, Any]:
    """Run a step in its own process; its JSON, with `crashed` added if it did not end well."""
    path.unlink(missing_ok=True)
    started = time.monotonic()
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            stderr = process.communicate(timeout=LONGEST)[1]
        except subprocess.TimeoutExpired:
            process.kill()
            stderr = process.communicate()[1] + f"\nstopped after {LONGEST} s"
    sys.stderr.write(stderr)
    result: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"meta": meta()}
    result["package"] = package
    result["seconds"] = time.monotonic() - started
    if process.returncode:
        result["crashed"] = {"returncode": process.returncode, "stderr": stderr[-4000:]}
    write(path, result)
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


def _make(work: Path, package: Path) -> str:
    """A small package by the project's own commands; empty, or what failed."""
    run = work / "run"
    return _run(
        *("train", "--encoder", "timm/resnet10t", "--weights", "demo/encoder.safetensors"),
        *("--data", "export/photographs", "--image-size", "96", "--steps", "4", "--batch-size", "4"),
        *("--area-weight", "1", "--out", str(run), "--quiet"),
    ) or _run(
        "export.build_engine", "--masker", str(run / "masker.safetensors"), "--out", str(package), "--quiet"
    )


def _has_engine(package: Path) -> bool:
    """Whether it holds an engine of the TensorRT-RTX that is here."""
    try:
        here = str(library("rtx").__version__)
        records = [engine.record for engine in Package.open(package).engines()]
    except NemuError as error:
        print(f"{package}: {error}", file=sys.stderr)
        return False
    return any(record.flavour == "rtx" and record.version == here for record in records)


def _run(module: str, *arguments: str) -> str:
    """Run one of the project's commands; empty, or the end of what it printed if it failed."""
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True)
    return (
        f"python -m {module} exited with {done.returncode}: {done.stderr[-2000:]}" if done.returncode else ""
    )


if __name__ == "__main__":
    sys.exit(main())
