"""Chooses the backend that runs a package, once; a backend that fails later is not replaced by another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from runtime.backends.base import Backend, EmbeddingBackend, TargetBackend
from runtime.errors import BackendUnavailable, EngineMismatch, InputError, ParityError
from runtime.package.folder import Package

if TYPE_CHECKING:
    from runtime.backends.onnxruntime import OnnxRuntimeBackend
    from runtime.backends.tensorrt.selection import TensorRTBackend

NAMES = ("auto", "onnxruntime", "tensorrt", "ep-rtx")


def choose(package: Package, backend: str = "auto", device: int = 0, precision: str | None = None) -> Backend:
    """Open a backend for a package.

    Args:
        package: an opened package.
        backend: `onnxruntime` (CPU), `tensorrt` (an engine of the package, any flavour), `ep-rtx` (an RTX
            card through onnxruntime, without an engine), or `auto`: a fitting engine if its library and
            driver are here, else `ep-rtx` if it is installed and passes the parity gate here, else
            onnxruntime.  `Backend.why` says which one was chosen and why.
        device: number of the GPU.
        precision: None is fp32 with onnxruntime, that of the engine that fits best with `tensorrt`, and
            with `ep-rtx` fp16 if the package has it, else fp32.

    Raises:
        InputError: an unknown backend, or a precision that it does not run.
        PackageError: the package was built without that precision.
        BackendUnavailable: the backend's library, driver or device is not here.
        EngineMismatch: with `tensorrt`, no engine fits; with `ep-rtx`, it does not support the graph.
        BackendError: the backend is here and failed.
        ParityError: the outputs of `ep-rtx` differ from the package's reference.
    """
    return _choose(package, backend, device, precision, mask=True)


def choose_embedding(
    package: Package, backend: str = "auto", device: int = 0, precision: str | None = None
) -> EmbeddingBackend:
    """Open a backend for embeddings: it prefers an engine or graph that computes the embedding only.

    `EmbeddingBackend.why` says so if the mask is computed too.  Arguments and errors as for `choose`.
    """
    chosen = _choose(package, backend, device, precision, mask=False)
    if len(chosen.outputs) > 1:
        chosen.why += "; it computes the mask too: the package has nothing else in this precision for here"
    return chosen


def embedding_only_backend(package: Package, beside: Backend, device: int = 0) -> EmbeddingBackend | None:
    """Open a backend that computes the embedding only, with the library, GPU and precision of `beside`.

    Returns:
        None if the package has no such engine or graph that fits.
    """
    from runtime.backends.onnxruntime import OnnxRuntimeBackend

    if isinstance(beside, OnnxRuntimeBackend):
        has = beside.embedding_models.get(beside.precision) in package.manifest.files
        return beside.reopen(why="it gives no mask", mask=False) if has else None
    from runtime.backends import cuda
    from runtime.backends.tensorrt import selection

    device = _device_of(beside, device)
    capability = cuda.device(device).compute_capability
    try:
        engine = selection.select(package, capability, beside.precision, mask=False)
        if not engine.record.embedding_only:
            return None
        opened = selection.open_engine(package, engine, device=device, unlisted=True)
    except EngineMismatch:
        return None
    if opened.name == beside.name:
        return opened
    opened.close()
    return None


def takes_targets(package: Package) -> bool:
    """Whether the package's masker takes a target: whether the package has a graph with two inputs."""
    from runtime.backends.onnxruntime import TOWARD_MODELS

    return TOWARD_MODELS["fp32"] in package.manifest.files


def toward_backend(package: Package, beside: Backend, device: int = 0) -> TargetBackend:
    """Open a backend that takes targets, with the library, GPU and precision of `beside`.

    So the embeddings of both have the same id, and embeddings of one can be targets of the other.

    Args:
        beside: an open backend of the same package.
        device: number of the GPU, used if `beside` has no attribute `device`.

    Raises:
        InputError: the package takes no targets.
        EngineMismatch: no engine for targets fits in that precision; there is never one in int8.
        BackendError: the engine does not load, or gives values that are not finite.
    """
    if not takes_targets(package):
        raise InputError(
            f"a target for {package.path}, whose masker takes none",
            expected="a package with model.toward.onnx",
            cure="train a masker that takes targets: nemu train --toward; then build its package",
        )
    if beside.precision == "int8":
        raise EngineMismatch(
            f"a target for {package.path} in int8",
            expected="a precision with a graph for targets: fp32, fp16 or bf16",
            cure="open the package in one of them, such as precision='fp32'",
        )
    from runtime.backends.onnxruntime import OnnxRuntimeBackend

    if isinstance(beside, OnnxRuntimeBackend):
        return beside.reopen(why="it takes a target", toward=True)
    from runtime.backends.tensorrt import selection

    if not isinstance(beside, selection.TensorRTBackend):
        raise EngineMismatch(
            f"a target for the backend {beside.name}",
            expected="a backend that nemu opened from the package",
            cure="open the package with backend='auto'",
        )
    return selection.open_backend(
        package, device=_device_of(beside, device), precision=beside.precision, toward=True
    )


def _device_of(beside: Backend, device: int) -> int:
    """Number of the GPU that a backend runs on; `device` if it has no such attribute."""
    return int(getattr(beside, "device", device))


def _choose(
    package: Package, backend: str, device: int, precision: str | None, *, mask: bool
) -> OnnxRuntimeBackend | TensorRTBackend:
    if backend not in NAMES:
        raise InputError(
            f"backend={backend!r}", expected=" or ".join(NAMES), cure="use 'auto' if you have no preference"
        )
    from runtime.backends.onnxruntime import OnnxRuntimeBackend

    if backend == "onnxruntime":
        return OnnxRuntimeBackend(package, precision=precision, mask=mask)
    from runtime.backends import ep_rtx

    if backend == "ep-rtx":
        return ep_rtx.RtxProviderBackend(package, precision=precision, mask=mask, device=device)
    why = "the package holds no engine"
    if backend == "tensorrt" or package.engines():  # else nothing of TensorRT is imported
        from runtime.backends.tensorrt.selection import open_backend

        if backend == "tensorrt":
            return open_backend(package, device=device, precision=precision, mask=mask)
        for needed in dict.fromkeys((mask, True)):  # an engine with a mask can embed too
            try:
                return open_backend(package, device=device, precision=precision, mask=needed)
            except (BackendUnavailable, EngineMismatch) as error:
                why = f"no engine of the package can run here: {error.came}"
    if ep_rtx.runs(package, precision):
        try:
            return ep_rtx.RtxProviderBackend(package, why=why, precision=precision, mask=mask, device=device)
        except (BackendUnavailable, EngineMismatch, ParityError) as error:
            why += f"; ep-rtx: {error.came}"
    return OnnxRuntimeBackend(package, why=why, precision=precision, mask=mask)
