"""Check our own CUDA code on this GPU without TensorRT: the runtime runs a stand-in engine of real kernels.

    python -m benchmarks.gpu.cuda OUT.json [--soak]

Every output is compared with numpy to the last bit.  Each check is a row; `passed` is null where the check
cannot be made here.  After a failed check the next one is made.  If the process dies, `running` names the
check that was being made.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from benchmarks.gpu.bench import Bench, Effort, NotHere, Wrong, same
from benchmarks.gpu.cuda_checks import CHECKS
from benchmarks.gpu.kernels import Kernels
from benchmarks.gpu.report import Report, parser
from runtime.backends import cuda
from runtime.errors import BackendUnavailable, NemuError

FEW = Effort(side=96, opens=20, calls=200, device_calls=50, timed=200, repeats=2)

Check = Callable[[Bench], dict[str, Any]]
"""Returns the figures of a check that passed; raises `Wrong`, `NotHere`, or another error."""


def main(argv: list[str] | None = None) -> int:
    """Make every check, or the soak, and write the report."""
    p = parser(__doc__)
    p.add_argument("--soak", action="store_true", help="run for --seconds and watch the memory instead")
    p.add_argument("--few", action="store_true", help="small images, few times: does everything run?")
    options = p.parse_args(argv)
    report = Report(options.path, budget=options.budget, seconds=options.seconds, gpu=True)
    what = "soak of the runtime" if options.soak else "the runtime over a stand-in engine"
    try:
        gpu = cuda.device(0)
        with cuda.implementation().current(0):
            kernels = Kernels(gpu.compute_capability)
    except NemuError as error:
        report.skip(what, error.came)
        return 0 if isinstance(error, BackendUnavailable) else 1
    report.content["kernels"] = kernels.how
    bench = Bench(kernels, gpu, FEW if options.few else Effort())
    if options.soak:
        soak(bench, report, seconds=min(options.seconds, 0.78 * options.budget))
    else:
        run(bench, report, CHECKS)
    return 0


def run(bench: Bench, report: Report, checks: Sequence[Check]) -> None:
    """Make every check for which there is time."""
    rows = report.content.setdefault("checks", [])
    for check in checks:
        name = check.__name__.replace("_", " ")
        if not report.has_time(name):
            continue
        report.content["running"] = name
        report.save()
        started = time.monotonic()
        row: dict[str, Any] = {"check": name, "passed": True, "detail": ""}
        try:
            row |= check(bench)
        except NotHere as error:
            row |= {"passed": None, "detail": str(error)}
        except Exception as error:  # noqa: BLE001  # a failed check is a row, and the next one is made
            kind = "" if isinstance(error, Wrong) else f"{type(error).__name__}: "
            row |= {"passed": False, "detail": kind + str(error)[-1500:]}
        rows.append({**row, "seconds": time.monotonic() - started})
        del report.content["running"]
        report.save()


def soak(bench: Bench, report: Report, *, seconds: float, every: float = 5) -> None:
    """Repeat every kind of run and compare each output; times and growth of memory are written meanwhile."""
    times: list[float] = []
    found: dict[str, Any] = {"runs": 0, "wrong": []}
    report.content["soak"] = found
    images, right = bench.images(1)
    with bench.current(), ExitStack() as stack:
        array = bench.on_device(images, stack)
        backend = stack.enter_context(bench.backend())
        backend.warm_up()
        backend.warm_up(on_device=True)
        before, began = bench.used(), time.monotonic()
        written = began
        while time.monotonic() < began + seconds and len(found["wrong"]) < 10:
            one, expected = bench.images(1, found["runs"])
            try:
                started = time.perf_counter()
                given = backend.run(one)
                times.append(1e3 * (time.perf_counter() - started))
                same(given, expected, "run")
                bench.run_exactly(backend, 1 + found["runs"] % bench.effort.most, found["runs"])
                outputs = [output.path.to_host(output) for output in backend.run_device(array)]
                same(outputs, right, "run_device")
            except (Wrong, NemuError) as error:
                found["wrong"].append(str(error))
            found["runs"] += 3
            if time.monotonic() > written + every:
                written = time.monotonic()
                found |= _figures(bench, before, times, written - began)
                report.save()
        found |= _figures(bench, before, times, time.monotonic() - began)
    report.save()


def _figures(bench: Bench, before: dict[str, int], times: list[float], seconds: float) -> dict[str, Any]:
    """Figures of the soak so far: seconds, milliseconds of a run, growth of memory in bytes."""
    after = bench.used()
    growth = {f"{name}: growth in bytes": after[name] - before[name] for name in before if name in after}
    if not times:
        return {"seconds": seconds, **growth}
    p50, p99 = (float(np.percentile(times, q)) for q in (50, 99))
    return {"seconds": seconds, "p50_ms": p50, "p99_ms": p99, "p99_over_p50": p99 / p50, **growth}


if __name__ == "__main__":
    sys.exit(main())
