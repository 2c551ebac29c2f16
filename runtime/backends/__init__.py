"""Which backend runs a package.  Chosen once; after that nothing falls back."""

from __future__ import annotations

from runtime.backends.base import Backend, check_images
from runtime.errors import BackendUnavailable, EngineMismatch, InputError
from runtime.package import Package

__all__ = ["NAMES", "Backend", "check_images", "choose"]

NAMES = ("auto", "onnxruntime", "tensorrt")


def choose(package: Package, backend: str = "auto", device: int = 0, precision: str | None = None) -> Backend:
    """Open a backend for a package.

    Args:
        package: an opened package.
        backend: `onnxruntime` (CPU), `tensorrt` (an engine of the package, any flavour), or `auto`: a
            fitting engine if its library and driver are here, else onnxruntime.  `Backend.why` says which
            it was and why.
        device: number of the GPU, for engines.
        precision: what it is to compute in; None is fp32 with onnxruntime, and the engine that fits best.

    Raises:
        InputError: no such backend, or a precision that it does not run.
        PackageError: the package was built without that precision.
        BackendUnavailable: the library, driver or device of the backend asked for is not here.
        EngineMismatch: `tensorrt` was asked for and no engine fits.
        BackendError: it is here and failed.
    """
    if backend not in NAMES:
        raise InputError(
            f"backend={backend!r}", expected=" or ".join(NAMES), cure="use 'auto' if you have no preference"
        )
    if backend == "onnxruntime":
        return _onnxruntime(package, "it was asked for", precision)
    if backend == "tensorrt":
        return _tensorrt(package, device, precision)
    if not package.engines():
        return _onnxruntime(package, "the package holds no engine", precision)
    try:
        return _tensorrt(package, device, precision)
    except (BackendUnavailable, EngineMismatch) as error:
        return _onnxruntime(package, f"no engine of the package can run here: {error.came}", precision)


def _onnxruntime(package: Package, why: str, precision: str | None) -> Backend:
    from runtime.backends.onnxruntime import OnnxRuntimeBackend

    return OnnxRuntimeBackend(package, why=why, precision=precision)


def _tensorrt(package: Package, device: int, precision: str | None) -> Backend:
    from runtime.backends.tensorrt import open_backend

    return open_backend(package, device=device, precision=precision)
