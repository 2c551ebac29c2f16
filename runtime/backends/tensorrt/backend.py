"""Runs an engine of the package, with TensorRT 10.0 to 11.4 (its V3 calls) or TensorRT-RTX.

A lane is one execution context with its stream and buffers (`lane.py`).  These lanes are used:

    the smallest and the largest batch   one lane each, with a CUDA graph
    batch sizes between them             one lane without a graph; with TensorRT-RTX, which compiles for each
                                         size, the lane of the largest batch
    submit                               a second lane for the smallest batch, so that two runs overlap
    run_device                           three separate lanes, of the same kinds
    run_toward                           the first two kinds, with an engine that takes targets

A lane is made when it is first needed.  All lanes share the weights; each has its own memory for activations,
so an application that explains one image at a time pays for one lane.

The tests use fakes of CUDA and TensorRT, which enforce the rules of both and have only names of the real
bindings.  For the checks on a GPU see benchmarks/gpu_check.sh.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from runtime.backends import cuda
from runtime.backends.base import check_form, check_images, check_targets
from runtime.backends.cuda.base import DeviceInfo
from runtime.backends.cuda.device_array import stream_handle
from runtime.backends.cuda.memory import Stream
from runtime.backends.tensorrt.cuda_graph import GraphLane
from runtime.backends.tensorrt.device_lane import DevicePath
from runtime.backends.tensorrt.engine import INPUT, LoadedEngine, RtxCache, Shapes
from runtime.backends.tensorrt.lane import Lane, Run
from runtime.backends.tensorrt.library import library
from runtime.device_explanation import DeviceArray
from runtime.errors import BackendError
from runtime.package.folder import Engine
from runtime.package.manifest import OUTPUTS, TOWARD
from runtime.package.records import InputRecord


class TensorRTBackend:
    """A loaded engine.  Any thread may use it, one at a time: each call makes the device current.

    Args:
        engine: fits this machine; `runtime.backends.tensorrt.selection.open_backend` chooses it.
        plan: from `engine.read()`.
        input: from the package's manifest.
        gpu: the GPU that it runs on.

    Raises:
        BackendError: it does not load, or a first run fails.
    """

    def __init__(self, engine: Engine, *, plan: bytes, input: InputRecord, gpu: DeviceInfo) -> None:
        record = engine.record
        self._cuda = cuda.implementation()
        self._gpu, self.device = gpu, gpu.index
        self.precision, self.outputs = record.precision, record.outputs
        self._takes_target, self._dimension = record.takes_target, 0
        self._least, self.max_batch = record.batch[0], record.batch[2]
        self._shape = (input.height, input.width, 3)
        self._file = engine.path.name
        self._pads = record.flavour == "rtx"
        self._lanes: dict[str, Lane] = {}
        self._path: DevicePath | None = None
        self._engine: LoadedEngine | None = None
        self._second = True
        self.degraded = ""
        self.name = ""
        try:
            with self._current():
                self._engine = LoadedEngine(library(record.flavour), engine, plan, RtxCache(record, gpu))
                self.name = self._engine.name
                if self._takes_target:
                    self._dimension = self._engine.dimension
                # TensorRT-RTX compiles for this GPU now, so an engine that cannot run fails now.
                self._lane("least")
        except BaseException:
            self.close()
            raise
        where = f"{gpu.name} ({gpu.compute_capability})"
        self.why = f"{self._file} fits {where}; {self._cuda.name}, {1 + self._engine.streams} stream(s)"

    @property
    def load_log(self) -> tuple[str, ...]:
        """TensorRT's warnings while it loaded the engine, and problems with its cache."""
        return self._opened().log

    def run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Backend.run`."""
        return self._answer(self._checked(images))

    def run_toward(self, images: np.ndarray, toward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `TargetBackend.run_toward`."""
        images = self._checked(images, toward=True)
        return self._answer(images, check_targets(toward, n=len(images), dimension=self._dimension))

    def embed(self, images: np.ndarray) -> np.ndarray:
        """See `EmbeddingBackend.embed`."""
        return self._answer(self._checked(images, mask=False))[0]

    def submit(self, images: np.ndarray) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
        """See `PipelinedBackend.submit`."""
        images = self._checked(images)
        with self._current():
            if len(images) <= self._least:
                self._second ^= True
                run = self._lane("second" if self._second else "least").start((images,), self._least)
            else:
                run = self._start(images)
        return lambda: self._finished(run)

    def run_device(self, array: Any, stream: Any = None) -> tuple[DeviceArray, DeviceArray]:
        """See `DeviceBackend.run_device`."""
        self._refuse_other_forms()
        theirs = None if stream is None else stream_handle(stream)
        with self._current():
            path = self._device_path()
            source = path.read(array, theirs)
            name, rows = self._lane_for(source.shape[0])
            return path.run(self._lane(name, path.stream), rows, source, theirs)

    def warm_up(self, *, on_device: bool = False) -> None:
        """See `runtime.explainer.Explainer.warm_up`."""
        if on_device:
            self._refuse_other_forms()
        self._opened()
        sizes = (1, max(1, self.max_batch - 1), self.max_batch)
        names = [*dict.fromkeys(self._lane_for(n)[0] for n in sizes)]
        if not (on_device or self._takes_target) and self.outputs == OUTPUTS:
            names.append("second")  # of `submit`
        with self._current():
            stream = self._device_path().stream if on_device else None
            for name in names:
                self._lane(name, stream)

    def poison(self) -> None:
        """Fill every output buffer, on host and device, with NaN, to notice a run that writes nothing."""
        self._opened()
        with self._current():
            for lane in self._lanes.values():
                lane.poison()

    def close(self) -> None:
        """Release the lanes (each graph, context, buffers, stream), then engine and runtime.

        If a release fails, the others are done all the same, and the first error is raised at the end.  A
        second call does nothing.
        """
        failures: list[BackendError] = []
        lanes: list[Lane | DevicePath] = [*self._lanes.values()]
        if self._path is not None:
            lanes.append(self._path)
        self._lanes, self._path = {}, None
        engine, self._engine = self._engine, None
        if engine is None:
            return
        with self._current():
            for lane in lanes:
                try:
                    lane.close()
                except BackendError as error:
                    failures.append(error)
            engine.close()
        if failures:
            raise failures[0]

    def _current(self) -> AbstractContextManager[None]:
        return self._cuda.current(self._gpu.index)

    def _opened(self) -> LoadedEngine:
        if self._engine is None:
            raise BackendError(
                f"{self.name} was used after close()",
                expected="an open backend",
                cure="open the package again",
            )
        return self._engine

    def _refuse_other_forms(self, *, mask: bool = True, toward: bool = False) -> None:
        """Raise if the engine lacks the output or input of a call, or if it is closed."""
        self._opened()
        check_form(self._file, self.outputs, self._takes_target, mask=mask, toward=toward)

    def _checked(self, images: np.ndarray, *, mask: bool = True, toward: bool = False) -> np.ndarray:
        self._refuse_other_forms(mask=mask, toward=toward)
        height, width, _ = self._shape
        return check_images(images, height=height, width=width, max_batch=self.max_batch)

    def _answer(self, *inputs: np.ndarray) -> Any:
        with self._current():
            return self._start(*inputs).result()

    def _start(self, *inputs: np.ndarray) -> Run:
        name, rows = self._lane_for(len(inputs[0]))
        return self._lane(name).start(inputs, rows)

    def _lane_for(self, n: int) -> tuple[str, int]:
        """The lane that runs n images, and the number of rows that it computes."""
        if n <= self._least:
            return "least", self._least
        if self._pads or n == self.max_batch:
            return "most", self.max_batch
        return "between", n

    def _device_path(self) -> DevicePath:
        """The path of `run_device`, made at its first use."""
        if self._path is None:
            shape = (self.max_batch, *self._shape)
            self._path = DevicePath(self._cuda, index=self._gpu.index, shape=shape)
        return self._path

    def _lane(self, name: str, stream: Stream | None = None) -> Lane:
        """The lane of that name, made at its first use; with a stream, the lane for images on the device."""
        key = name if stream is None else f"{name} on the device"
        if (lane := self._lanes.get(key)) is not None:
            return lane
        rows = self._least if name in ("least", "second") else self.max_batch
        engine = self._opened()
        shapes: Shapes = {INPUT: (rows, *self._shape)}
        if self._takes_target:
            shapes[TOWARD] = (rows, self._dimension)
        kind = Lane if name == "between" else GraphLane
        lane = kind(self._cuda, engine, shapes, mapped=self._gpu.mapped_input, stream=stream)
        self._lanes[key] = lane
        reason = f"no CUDA graph for batches of {rows}: {lane.no_graph}"
        if lane.no_graph and reason not in self.degraded:
            self.degraded += "; " * bool(self.degraded) + reason
        engine.cache.save()
        return lane

    def _finished(self, run: Run) -> Any:
        with self._current():
            return run.result()
