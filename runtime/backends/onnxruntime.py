"""onnxruntime on the CPU: the embedded default, and the reference that engines are measured against."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from runtime.backends.base import check_images, check_targets
from runtime.backends.threads import thread_count
from runtime.errors import BackendError, BackendUnavailable, InputError
from runtime.manifest import OUTPUTS, TOWARD
from runtime.package import Package

MODELS = {"fp32": "model.onnx", "int8": "model.int8.cpu.onnx"}
"""What runs here, by precision; a CPU computes half graphs in float32."""
EMBEDDING_MODELS = {"fp32": "model.embedding.onnx", "int8": "model.int8.cpu.embedding.onnx"}
"""The same without what only the mask needs; they name weights of the file that theirs names."""
TOWARD_MODELS = {"fp32": "model.toward.onnx"}
"""The same with a target as second input; a package that takes targets has it."""
CELLS_MODEL, CELLS = "model.cells.onnx", "cells"
"""The fp32 graph for `runtime.bank`, in the place of the mask an output of local features (N, C, h, w)."""


class OnnxRuntimeBackend:
    """Runs `model.onnx` in float32, or `model.int8.cpu.onnx` if int8 is asked for.

    onnxruntime computes the whole graph, whichever output it is asked for (measured with 1.32); so without
    the mask another graph runs, if the package was built with it.  With `toward` it is `model.toward.onnx`,
    for `run_toward` alone.

    On how many threads it computes, and how to change that: `runtime.backends.threads`.  Threads sleep
    while they wait for work: spinning (measured on 2 cores) made no run faster, and took a fifth more CPU
    time from the application.  The weights in `model.onnx.data` are mapped into memory, not read.

    Raises:
        BackendUnavailable: onnxruntime is not installed.
        InputError: a precision that onnxruntime does not run.
        PackageError: the package was built without it.
        BackendError: onnxruntime cannot load the graph.
    """

    name = "onnxruntime"
    degraded = ""
    models: ClassVar = MODELS
    embedding_models: ClassVar = EMBEDDING_MODELS
    toward_models: ClassVar = TOWARD_MODELS
    most = 8
    """Images that a run takes at once: more gains no speed on a CPU and costs memory."""

    def __init__(
        self,
        package: Package,
        *,
        why: str = "it was asked for",
        precision: str | None = None,
        mask: bool = True,
        toward: bool = False,
    ) -> None:
        self.precision = precision or self._usual(package)
        models = self.toward_models if toward else self.models
        if self.precision not in models:
            raise InputError(
                f"precision {precision!r} with {self.name}" + ", for targets" * toward,
                expected=" or ".join(models),
                cure="another precision, or an engine: --backend tensorrt",
            )
        without = self.embedding_models.get(self.precision, "")
        alone = not (mask or toward) and without in package.manifest.files
        self.outputs: tuple[str, ...] = OUTPUTS[:1] if alone else OUTPUTS
        self._takes_target = toward
        self._session: Any = self._open(package.file(without if alone else models[self.precision]))
        self._input, self._dimension = package.manifest.input, package.manifest.encoder.dimension
        self.max_batch = _max_batch(self._session.get_inputs()[0].shape[0], self.most)
        self.why = f"{why}; {self._where()}"

    def run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Backend.run`."""
        if self.outputs != OUTPUTS:
            raise BackendError(
                "an explanation was asked of a graph that gives the embedding alone",
                expected="one with both outputs",
                cure="open the package with Explainer, or use Embedder",
            )
        embedding, mask = self._run(images)
        return embedding, mask

    def run_toward(self, images: np.ndarray, toward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `runtime.backends.base.TargetBackend`."""
        embedding, mask = self._run(images, toward)
        return embedding, mask

    def embed(self, images: np.ndarray) -> np.ndarray:
        """See `runtime.backends.base.EmbeddingBackend`."""
        return self._run(images)[0]

    def close(self) -> None:
        """See `Backend.close`."""
        self._session = None

    def another(
        self, package: Package, *, why: str, mask: bool = True, toward: bool = False
    ) -> OnnxRuntimeBackend:
        """Another graph of the package in the same precision, on the same device."""
        return type(self)(package, why=why, precision=self.precision, mask=mask, toward=toward)

    def _usual(self, package: Package) -> str:
        """The precision where none is asked for."""
        return "fp32"

    def _open(self, path: Path) -> Any:
        return open_session(path)

    def _where(self) -> str:
        return f"onnxruntime {ort().__version__} on the CPU, {thread_count()} threads"

    def _run(self, images: np.ndarray, toward: np.ndarray | None = None) -> list[np.ndarray]:
        if self._session is None:
            raise BackendError("this backend is closed", expected="an open one", cure="make a new Explainer")
        if self._takes_target != (toward is not None):
            raise BackendError(
                "a graph that takes targets was asked without one"
                if self._takes_target
                else "a target was given to a graph that takes none",
                expected="run_toward on a graph that takes targets, run and embed on the others",
                cure="use the Explainer, which opens the graph for each",
            )
        images = check_images(
            images, height=self._input.height, width=self._input.width, max_batch=self.max_batch
        )
        feed = {self._input.name: images}
        if toward is not None:
            feed[TOWARD] = check_targets(toward, n=len(images), dimension=self._dimension)
        try:
            # Binding fresh outputs takes longer than what `run` allocates (332 to 282 microseconds of a run
            # that computes next to nothing), and outputs bound once would not be the caller's own.
            return self._session.run(self.outputs, feed)
        except Exception as error:  # its exceptions share no base but this
            raise BackendError(
                f"onnxruntime failed on images {images.shape}: {first_line(error)}",
                expected=f"the outputs {', '.join(self.outputs)}",
                cure="free memory if it says so; otherwise: python -m runtime verify PACKAGE",
            ) from error


def open_session(path: Path) -> Any:
    """An `onnxruntime.InferenceSession` on the CPU, set as every one here is.

    Raises:
        BackendUnavailable: onnxruntime is not installed.
        BackendError: it cannot load the graph.
    """
    module = ort()
    options = module.SessionOptions()
    options.intra_op_num_threads = thread_count()  # 0 would pin threads to CPUs, also to forbidden ones
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_mem_pattern = False  # 9 MB more with ResNet-50, and no faster
    try:
        session = module.InferenceSession(str(path), sess_options=options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base but this
        raise BackendError(
            f"onnxruntime {module.__version__} cannot load {path}: {first_line(error)}",
            expected="a graph of opset 20, IR 10 or older",
            cure="pip install --upgrade onnxruntime; if that does not help, build the package again",
        ) from error
    _return_freed_memory()
    return session


def ort() -> Any:
    """onnxruntime.

    Raises:
        BackendUnavailable: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailable(
            f"onnxruntime cannot be imported ({error})",
            expected="onnxruntime 1.18 or newer, or an engine that fits this device",
            cure="pip install onnxruntime",
        ) from error
    return onnxruntime


def _return_freed_memory() -> None:
    """Loading orders the weights anew through copies; glibc keeps what they leave, most of their size."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)  # other C libraries return it by themselves


def _max_batch(axis: int | str | None, most: int) -> int:
    """The graph's batch axis is a name where it is free; a number means that batch and no other."""
    if not isinstance(axis, int):
        return most
    if axis == 1:
        return 1
    raise BackendError(
        f"the graph takes batches of exactly {axis}",
        expected="a free batch axis, or 1",
        cure="build the package again, e.g. with --batch 1:1:8",
    )


def first_line(error: Exception) -> str:
    """The first line of its message."""
    return str(error).partition("\n")[0]
