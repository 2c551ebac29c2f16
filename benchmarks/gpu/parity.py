"""Try every engine of a package on this machine and compare its outputs with the package's reference.

An engine is opened as the runtime opens it, on a GPU that its library does not list, too.  Outputs are
poisoned before every run.  With `--flavour ep-rtx` onnxruntime's TensorRT-RTX provider is tried instead, in
each precision that the package has.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.report import Report, parser
from runtime.backends import cuda
from runtime.backends.choice import choose, takes_targets, toward_backend
from runtime.backends.ep_rtx import RtxProviderBackend
from runtime.backends.tensorrt.library import validity
from runtime.backends.tensorrt.selection import TensorRTBackend, open_engine
from runtime.errors import BackendUnavailable
from runtime.package.folder import GRAPHS, TOWARD_GRAPHS, Engine, Package
from runtime.package.reference import Reference, limits_for, load_reference
from runtime.verify import verify, verify_toward

EP_RTX = RtxProviderBackend.name
Found = dict[str, Any]
"""What is reported of one engine; `stage` is what it had come to."""


def main(argv: list[str] | None = None) -> int:
    """Try the engines; the report is written before every step that may crash the process."""
    p = parser(__doc__)
    p.add_argument("--package", type=Path, required=True)
    p.add_argument("--flavour", default="rtx", help="only engines of this flavour of TensorRT (%(default)s)")
    options = p.parse_args(argv)
    report = Report(options.path, seconds=options.seconds, gpu=True)
    package = Package.open(options.package)
    if options.flavour == EP_RTX:
        for precision in (name for name, file in GRAPHS.items() if file in package.manifest.files):
            found: Found = {"engine": f"{EP_RTX}, {precision}", "flavour": EP_RTX}
            attempt(report, found, partial(try_provider, package, precision))
        return 0
    engines = [engine for engine in package.engines() if engine.record.flavour == options.flavour]
    engines = [engine for engine in engines if not engine.record.embedding_only]
    if not engines:
        report.skip(f"parity of {options.flavour} engines", "the package has none with a mask")
        return 0
    reference = load_reference(package)
    for engine in engines:
        found = {"engine": engine.path.name, "flavour": options.flavour, "record": engine.record.fields()}
        attempt(report, found, partial(try_engine, package, engine, reference))
    return 0


def attempt(report: Report, found: Found, run: Callable[[Found, Report], None]) -> None:
    """Run, and note what it raises in `found`, which is part of the report."""
    report.content.setdefault("engines", []).append(found)
    report.save()
    try:
        run(found, report)
    except BackendUnavailable as error:
        found["error"] = str(error)
        report.skip(f"running {found['engine']}", error.came)
    except Exception as error:  # noqa: BLE001  # any failure on an unlisted GPU is reported
        found["error"] = f"{type(error).__name__}: {error}"
    report.save()


def try_provider(package: Package, precision: str, found: Found, report: Report) -> None:
    """Open it twice, the second time with kernels from the cache, and verify it."""
    found["opened_seconds"] = []
    for found["stage"] in ("first opening", "second opening"):
        report.save()
        started = time.monotonic()
        with closing(choose(package, EP_RTX, precision=precision)) as backend:
            found["opened_seconds"].append(time.monotonic() - started)
            found["why"] = backend.why
            found["parity"] = verify(package, backend).to_json()
            if takes_targets(package) and precision in TOWARD_GRAPHS:
                with closing(toward_backend(package, backend)) as targeted:
                    found["parity_toward"] = verify_toward(package, targeted).to_json()
    found |= {"stage": "done", "failures": []}


def try_engine(package: Package, engine: Engine, reference: Reference, found: Found, report: Report) -> None:
    """Ask TensorRT-RTX for its verdict on the plan, which it gives before loading it; open, run, compare."""
    found["stage"] = "validation"
    if engine.record.flavour == "rtx":
        with ExitStack() as stack:
            with suppress(BackendUnavailable):  # without a GPU it judges by the plan's header alone
                stack.enter_context(cuda.implementation().current(cuda.device(0).index))
            found["validity"] = asdict(validity(engine.read()))
    found["stage"] = "opening"
    report.save()
    started = time.monotonic()
    with closing(open_engine(package, engine, unlisted=True)) as backend:
        found |= {"opened_seconds": [time.monotonic() - started], "why": backend.why}
        found |= {"load_log": list(backend.load_log), "stage": "running"}
        report.save()
        compare(backend, engine, reference, found, report)
    found["stage"] = "done"


def compare(
    backend: TensorRTBackend, engine: Engine, reference: Reference, found: Found, report: Report
) -> None:
    """Note the parity of one image at a time and of full batches."""
    precision, toward = engine.record.precision, None
    if engine.record.takes_target:
        toward, reference = reference.targets()
    for batch in sorted({1, backend.max_batch}):
        embedding, mask = _poisoned_run(backend, reference.images, toward, batch)
        parity = reference.compare(embedding, mask, precision=precision)
        found.setdefault("parity", {})[f"batch {batch}"] = parity.to_json()
        found.setdefault("failures", []).extend(parity.failures(limits_for(precision)))
        found["degraded"] = backend.degraded
        report.save()


def _poisoned_run(
    backend: TensorRTBackend, images: np.ndarray, toward: np.ndarray | None, batch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Run all images, `batch` at a time; every output buffer holds NaN before each run."""
    parts = []
    for start in range(0, len(images), batch):
        backend.poison()
        which = slice(start, start + batch)
        given = images[which]
        parts.append(backend.run(given) if toward is None else backend.run_toward(given, toward[which]))
    embedding, mask = (np.concatenate(part) for part in zip(*parts, strict=True))
    return embedding, mask


if __name__ == "__main__":
    sys.exit(main())
