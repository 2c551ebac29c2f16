"""What a package costs on this machine: encoder alone, fused, from a JPEG, and the other ways side by side.

    python -m benchmarks.latency resnet50.nemu --json benchmarks/results/latency_resnet50.json

Rows of one `group` were timed in one interleaved run (`benchmarks.common.interleave`), with onnxruntime's
spinning off.  `control` is a second session of `encoder`.  A ratio needs 200 rounds.  Larger batches run for
--seconds only, so their rows have n and no ratio.  In PyTorch the encoder has random weights.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from benchmarks.common.interleave import FEWEST_PAIRS, Call, interleave, latency_row, ratio
from benchmarks.common.nvml import joules_per_call
from benchmarks.common.onnx_sessions import encoder_graph, fused_graph, random_encoder, run, session
from benchmarks.common.record import command, device_name, exits, meta, write
from benchmarks.latency.peers import openvino_call, relax_milliseconds, torch_peers
from export.package.source import PHOTOGRAPHS
from runtime import Explainer
from runtime.backends.choice import choose
from runtime.backends.onnxruntime import MODELS
from runtime.errors import NemuError
from runtime.package.folder import Package

Row = dict[str, Any]
AUTHORS_WAY = "authors_way"


class Latency:
    """Rows of one package, and what could not be measured; see the module."""

    def __init__(self, package: Package, *, rounds: int, seconds: float) -> None:
        self.package, self.rounds, self.seconds = package, rounds, seconds
        self.side = package.manifest.input
        self.model = package.manifest.encoder.id.removeprefix("timm/")
        self.threads = len(os.sched_getaffinity(0))
        self.rows: list[Row] = []
        self.skipped: list[dict[str, str]] = []

    def graphs(self, batch: int) -> None:
        """Its graphs in onnxruntime: encoder, control, fused; in float32 the authors' decoder too."""
        calls: dict[tuple[str, str], Call] = {}
        images = self._images(batch)
        for precision, file in MODELS.items():
            path = self.package.path / file
            if not path.is_file():
                self.skipped.append({"what": f"onnxruntime {precision}", "why": f"the package has no {file}"})
                continue
            whole = onnx.load(path)
            sessions = dict.fromkeys(("encoder", "control"), encoder_graph(whole)) | {"fused": whole}
            if precision == "fp32" and (encoder := self._random_encoder()):
                sessions["authors_decoder"] = fused_graph(encoder, "unet")
            for variant, graph in sessions.items():
                calls[precision, variant] = run(session(graph, threads=self.threads), images)
        self._add("onnxruntime", calls, batch=batch, group=f"graphs, batch {batch}")

    def peers(self) -> None:
        """Batch 1: the package in onnxruntime beside PyTorch, torch.compile and OpenVINO."""
        encoder = self._random_encoder()
        if encoder is None:
            return
        images = self._images(1)
        rows: dict[tuple[str, str, str], Call] = {}
        for precision, file in MODELS.items():
            if (path := self.package.path / file).is_file():
                rows["onnxruntime", precision, "fused"] = run(session(path, threads=self.threads), images)
        torch.set_num_threads(self.threads)
        architecture = self.package.manifest.masker.architecture
        for variant, make in torch_peers(encoder, architecture).items():
            try:
                rows["torch", "fp32", variant] = make(torch.from_numpy(images))
            except RuntimeError as error:  # torch.compile without a C++ compiler
                self.skipped.append({"what": f"torch {variant}", "why": str(error)[-300:]})
        try:
            whole = onnx.load(self.package.path / MODELS["fp32"])
            for variant, graph in (("encoder", encoder_graph(whole)), ("fused", whole)):
                rows["openvino", "fp32", variant] = openvino_call(graph, images, threads=self.threads)
        except ImportError as error:
            self.skipped.append({"what": "openvino", "why": str(error)})
        times = interleave({"/".join(key): call for key, call in rows.items()}, rounds=self.rounds, warm_up=3)
        slow = times[f"torch/fp32/{AUTHORS_WAY}"]
        for (backend, precision, variant), column in zip(rows, times.values(), strict=True):
            gain = ratio(slow, column) if len(column) >= FEWEST_PAIRS else None
            row: Row = {"backend": backend, "precision": precision, "variant": variant, "group": "peers"}
            row |= {"faster_than_authors_way": gain and gain.value}
            self._row(column, **row, faster_ci=gain and [gain.low, gain.high])
        relax = np.array([relax_milliseconds(encoder, images)])
        self._row(
            relax, backend="torch", precision="fp32", variant="relax", group="relax", scaled_from=1 / 30
        )

    def backends(self) -> None:
        """Every backend and precision that runs here: from an array of the right size, and from a JPEG."""
        jpeg = (PHOTOGRAPHS / "coffee.jpg").read_bytes()
        array = self._images(1)[0]
        for name in ("onnxruntime", "tensorrt"):
            for precision in ("fp32", "fp16", "bf16", "int8"):
                try:
                    backend = choose(self.package, name, precision=precision)
                except NemuError as error:
                    self.skipped.append({"what": f"{name} {precision}", "why": error.came})
                    continue
                with Explainer(self.package, backend=backend) as explainer:
                    ways: dict[str, Call] = {
                        "fused": lambda: explainer.backend.run(array[None]),
                        "from_array": lambda: explainer(array),
                        "from_jpeg": lambda: explainer(jpeg),
                    }
                    times = interleave(ways, rounds=self.rounds)
                    joules = joules_per_call(ways["fused"], calls=200) if name == "tensorrt" else None
                of: Row = {
                    "backend": name,
                    "precision": precision,
                    "group": f"{name} {precision}, end to end",
                }
                memory = _peak_memory(self.package.path, name, precision)
                for variant, column in times.items():
                    self._row(column, variant=variant, peak_memory_mb=memory, joules_per_image=joules, **of)

    def _add(self, backend: str, calls: dict[tuple[str, str], Call], *, batch: int, group: str) -> None:
        limit = float("inf") if batch == 1 else self.seconds
        named = {"/".join(key): call for key, call in calls.items()}
        times = interleave(named, rounds=self.rounds, seconds=limit, warm_up=5 if batch == 1 else 1)
        for (precision, variant), column in zip(calls, times.values(), strict=True):
            base = times[f"{precision}/encoder"]
            self._row(
                column, base, backend=backend, precision=precision, variant=variant, batch=batch, group=group
            )

    def _row(
        self, times: np.ndarray, base: np.ndarray | None = None, *, batch: int = 1, **fields: Any
    ) -> None:
        row = {**fields, "model": self.model, "image_size": self.side.height, "batch": batch}
        row |= {"device": device_name(), "threads": self.threads, **latency_row(times, base)}
        self.rows.append({**row, "images_per_second": 1e3 * batch / row["median_ms"]})

    def _images(self, batch: int) -> np.ndarray:
        shape = (batch, self.side.height, self.side.width, 3)
        return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)

    def _random_encoder(self) -> Any:
        if not self.package.manifest.encoder.id.startswith("timm/"):
            self.skipped.append({"what": "peers", "why": "the encoder is not one of timm's"})
            return None
        return random_encoder(self.model, self.side.height)


def _peak_memory(package: Path, backend: str, precision: str) -> float | None:
    """Largest resident memory, MB, of a process of its own that explains 20 arrays."""
    code = (
        "import sys, numpy as np\nfrom runtime import Explainer\n"
        "e = Explainer(sys.argv[1], backend=sys.argv[2], precision=sys.argv[3])\n"
        "i = e.manifest.input\n"
        "for _ in range(20): e(np.zeros((i.height, i.width, 3), np.uint8))\n"
        "status = dict(line.split(':') for line in open('/proc/self/status'))\n"
        "print(status['VmHWM'].split()[0])"  # ru_maxrss would be that of the process that forked
    )
    command = [sys.executable, "-c", code, str(package), backend, precision]
    done = subprocess.run(command, capture_output=True, text=True)
    return int(done.stdout) * 1024 / 1e6 if not done.returncode else None


@exits
def main(argv: list[str] | None = None) -> int:
    """Returns 0, or 1 with a message; the file is written after every group."""
    p = command("latency", __doc__)
    p.add_argument("package", type=Path, metavar="PACKAGE", help="NAME.nemu")
    p.add_argument(
        "--batch", type=int, nargs="+", default=[1, 8, 32], help="batch sizes of the graphs (%(default)s)"
    )
    p.add_argument("--rounds", type=int, default=FEWEST_PAIRS, help="rounds of each group (%(default)s)")
    p.add_argument("--seconds", type=float, default=60, help="for each batch larger than 1 (%(default)s)")
    p.add_argument(
        "--no-peers", action="store_true", help="time only the package: no PyTorch, OpenVINO, RELAX"
    )
    o = p.parse_args(argv)
    latency = Latency(Package.open(o.package), rounds=o.rounds, seconds=o.seconds)
    groups: list[Call] = [functools.partial(latency.graphs, batch) for batch in o.batch]
    groups += [latency.backends] if o.no_peers else [latency.backends, latency.peers]
    for measure in groups:
        measure()
        write(o.json, {"meta": meta(), "rows": latency.rows, "skipped": latency.skipped})
    return 0


if __name__ == "__main__":
    if "OMP_WAIT_POLICY" not in os.environ:  # PyTorch's threads, too, must not spin while others are timed
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks.latency", *sys.argv[1:]])
    sys.exit(main())
