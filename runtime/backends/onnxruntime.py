"""onnxruntime on the CPU: the default on embedded devices, the reference for engines, and local features."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from runtime.backends.base import check_form, check_images, check_targets
from runtime.backends.threads import thread_count
from runtime.errors import BackendError, BackendUnavailable, InputError, PackageError
from runtime.package.folder import Package
from runtime.package.manifest import OUTPUTS, TOWARD
from runtime.package.reasons import sentence

MODELS = {"fp32": "model.onnx", "int8": "model.int8.cpu.onnx"}
"""The graph that runs on a CPU, by precision; a CPU would compute half-precision graphs in float32."""
EMBEDDING_MODELS = {"fp32": "model.embedding.onnx", "int8": "model.int8.cpu.embedding.onnx"}
"""These graphs without the mask, by precision; their weights are in the same file."""
TOWARD_MODELS = {"fp32": "model.toward.onnx"}
"""The graph with a target as second input, by precision; a package that takes targets has it."""
CELLS_MODEL, CELLS = "model.cells.onnx", "cells"
"""The fp32 graph for `runtime.anomaly.bank`: instead of the mask it gives local features (N, C, h, w)."""


class OnnxRuntimeBackend:
    """Runs `model.onnx` in float32, or `model.int8.cpu.onnx` if int8 is asked for.

    onnxruntime computes the whole graph, whichever output it is asked for (measured with 1.32), so another
    graph is opened for the embedding alone, if the package has one.

    Threads: `runtime.backends.threads` says how many, and how to change that.  They sleep while they wait for
    work: spinning (measured on 2 cores) made no run faster, and took a fifth more CPU time from the
    application.  The weights in `model.onnx.data` are mapped into memory, not read.

    Args:
        why: the reason for this backend, the beginning of `self.why`.
        precision: None is fp32 here.
        mask: False opens the graph that computes the embedding only, if the package has it.
        toward: True opens `model.toward.onnx`, for `run_toward` only.
        device: number of the GPU; used by subclasses.

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
    """Images that one run takes: more is no faster on a CPU and costs memory."""

    def __init__(
        self,
        package: Package,
        *,
        why: str = "it was asked for",
        precision: str | None = None,
        mask: bool = True,
        toward: bool = False,
        device: int = 0,
    ) -> None:
        self._package, self.device = package, device
        self._find_device()
        self.precision = precision or self._default_precision()
        models = self.toward_models if toward else self.models
        if self.precision not in models:
            raise InputError(
                f"precision {precision!r} with {self.name}" + ", for targets" * toward,
                expected=" or ".join(models),
                cure="another precision, or an engine: --backend tensorrt",
            )
        small = self.embedding_models.get(self.precision, "")
        embedding_only = not (mask or toward) and small in package.manifest.files
        self.outputs: tuple[str, ...] = OUTPUTS[:1] if embedding_only else OUTPUTS
        self._takes_target = toward
        self._file = small if embedding_only else models[self.precision]
        self._session: Any = self._open(package.file(self._file))
        self._input, self._dimension = package.manifest.input, package.manifest.encoder.dimension
        self.max_batch = _max_batch(self._session.get_inputs()[0].shape[0], self.most)
        self.why = f"{why}; {self._where()}"
        self._check_outputs(mask=mask, toward=toward)

    def run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Backend.run`."""
        return self._run(images)

    def run_toward(self, images: np.ndarray, toward: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `TargetBackend.run_toward`."""
        return self._run(images, toward)

    def embed(self, images: np.ndarray) -> np.ndarray:
        """See `EmbeddingBackend.embed`."""
        return self._run(images, mask=False)[0]

    def close(self) -> None:
        """See `Backend.close`."""
        self._session = None

    def reopen(self, *, why: str, mask: bool = True, toward: bool = False) -> OnnxRuntimeBackend:
        """Open another graph of the same package, in the same precision, on the same device."""
        return type(self)(
            self._package, why=why, precision=self.precision, mask=mask, toward=toward, device=self.device
        )

    def _find_device(self) -> None:
        """Raise if the device is not there; the CPU always is."""

    def _default_precision(self) -> str:
        """The precision if the caller asked for none."""
        return "fp32"

    def _open(self, path: Path) -> Any:
        return open_session(path)

    def _check_outputs(self, *, mask: bool, toward: bool) -> None:
        """Compare the outputs with the package's reference, where no build has done so."""

    def _where(self) -> str:
        return f"onnxruntime {ort().__version__} on the CPU, {thread_count()} threads"

    def _run(self, images: np.ndarray, toward: np.ndarray | None = None, *, mask: bool = True) -> Any:
        if self._session is None:
            raise BackendError("this backend is closed", expected="an open one", cure="make a new Explainer")
        check_form(self._file, self.outputs, self._takes_target, mask=mask, toward=toward is not None)
        images = check_images(
            images, height=self._input.height, width=self._input.width, max_batch=self.max_batch
        )
        feed = {self._input.name: images}
        if toward is not None:
            feed[TOWARD] = check_targets(toward, n=len(images), dimension=self._dimension)
        # `run` allocates the outputs.  To bind new ones for each run is slower (332 against 282
        # microseconds for a tiny graph), and the next run would overwrite outputs that are bound once.
        return run_session(self._session, self.outputs, feed)


class CellsBackend:
    """Runs one image at a time, on the CPU, in float32.  No engine computes local features.

    Raises:
        PackageError: the package was built without `model.cells.onnx`.
        BackendUnavailable, BackendError: as for `OnnxRuntimeBackend`.
    """

    precision = "fp32"

    def __init__(self, package: Package) -> None:
        if CELLS_MODEL not in package.manifest.files:
            why = package.manifest.refused.get("cells", "it was built by an older version")
            raise PackageError(
                f"{package.path} has no {CELLS_MODEL}: {sentence(why)}",
                expected="a package with local features, which a bank of normal images needs",
                cure="build the package again: nemu build --masker … --out NAME.nemu",
            )
        self._input = package.manifest.input
        self._session = open_session(package.file(CELLS_MODEL))

    def run(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (height, width, 3) → embedding float32 (D,), cells float32 (C, h, w).

        Raises:
            InputError: an image of another dtype or shape.
            BackendError: the run failed.
        """
        batch = check_images(image[None], height=self._input.height, width=self._input.width, max_batch=1)
        embedding, cells = run_session(self._session, (OUTPUTS[0], CELLS), {self._input.name: batch})
        return embedding[0], cells[0]


def run_session(session: Any, outputs: Sequence[str], feed: Mapping[str, np.ndarray]) -> tuple[Any, ...]:
    """The outputs of a session, in this order; raises `BackendError` if the run failed."""
    try:
        return tuple(session.run(outputs, feed))
    except Exception as error:  # its exceptions share no base but this
        shapes = ", ".join(f"{name} {array.shape}" for name, array in feed.items())
        raise BackendError(
            f"onnxruntime failed on {shapes}: {first_line(error)}",
            expected=f"the outputs {', '.join(outputs)}",
            cure="free memory if it says so; otherwise: nemu verify PACKAGE",
        ) from error


def session_options(*, threads: int | None = None) -> Any:
    """Options of a CPU session: it logs errors only, and its threads sleep while they wait for work.

    Args:
        threads: None is `runtime.backends.threads.thread_count()`.
    """
    options = ort().SessionOptions()
    # 0 threads would pin them to CPUs, also to CPUs that this process may not use.
    options.intra_op_num_threads = threads or thread_count()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_mem_pattern = False  # 9 MB more with ResNet-50, and no faster
    return options


def open_session(model: Path | bytes, options: Any = None) -> Any:
    """Open an `onnxruntime.InferenceSession` on the CPU.

    Args:
        model: a file, or a serialised graph (at most 2 GB).
        options: an `onnxruntime.SessionOptions`; None is `session_options()`.

    Raises:
        BackendUnavailable: onnxruntime is not installed.
        BackendError: it cannot load the graph.
    """
    module, source = ort(), model if isinstance(model, bytes) else str(model)
    options = session_options() if options is None else options
    try:
        session = module.InferenceSession(source, sess_options=options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base but this
        name = "a graph in memory" if isinstance(model, bytes) else model
        raise BackendError(
            f"onnxruntime {module.__version__} cannot load {name}: {first_line(error)}",
            expected="a graph of opset 20, IR 10 or older",
            cure="pip install --upgrade onnxruntime; if that does not help, build the package again",
        ) from error
    _return_freed_memory()
    return session


def ort() -> Any:
    """Import onnxruntime.

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
    """Give freed memory back to the system: loading copies the weights, and glibc keeps the freed copies."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)  # other C libraries give it back by themselves


def _max_batch(axis: int | str | None, most: int) -> int:
    """Images that one run takes: `most` if the batch axis is free (a name), 1 if it is fixed to 1."""
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
    """The first line of an error's message."""
    return str(error).partition("\n")[0]
