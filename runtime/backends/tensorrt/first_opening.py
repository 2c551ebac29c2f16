"""Checks once that an engine gives finite values on this device, with the package's reference images.

An engine in half precision may overflow on another GPU than the one that built and checked it.
Success is recorded as a file in the user's cache directory; a failure raises at every opening.
"""

from __future__ import annotations

import hashlib

import numpy as np

from runtime.atomic import atomic_file
from runtime.backends import cuda
from runtime.backends.cuda.base import DeviceInfo
from runtime.backends.tensorrt.backend import TensorRTBackend
from runtime.backends.tensorrt.rtx_cache import engine_here
from runtime.errors import BackendError
from runtime.finite import not_finite
from runtime.package.folder import REFERENCE, Engine, Package
from runtime.package.manifest import OUTPUTS, EngineRecord
from runtime.package.reference import Reference, load_reference


def check(package: Package, engine: Engine, backend: TensorRTBackend, gpu: DeviceInfo) -> str:
    """Run the reference images through the engine, unless the check succeeded here before.

    Returns:
        A note for the user if the check could not be done or recorded; otherwise an empty string.

    Raises:
        BackendError: a value is not finite, or a run failed.
        PackageError: the reference cannot be read.
    """
    if REFERENCE not in package.manifest.files:
        return f"its outputs were not checked: the package has no {REFERENCE}"
    # The driver has kernels too.
    here = hashlib.sha256(f"{backend.name} {cuda.driver().cuda}".encode()).hexdigest()[:8]
    path = package.cache() / "finite" / f"{engine_here(engine.record, gpu)}-{here}.txt"
    if path.exists():
        return ""
    reference = load_reference(package)
    every = np.arange(len(reference.images))
    batches = {f"reference image {i}": every[i : i + 1] for i in every}
    if engine.record.flavour == "rtx" and backend.max_batch > 1:  # RTX compiles the largest batch separately
        batches[f"a batch of {backend.max_batch}"] = np.resize(every, backend.max_batch)
    for name, which in batches.items():
        values = _run(backend, engine.record, reference, which)
        if wrong := not_finite(dict(zip(OUTPUTS, values, strict=False))):
            raise BackendError(
                f"{engine.path.name} ({engine.record.precision}) on {gpu.name}: "
                f"{wrong} of {name} is not finite",
                expected="finite values",
                cure=f"build it in bf16: {package.build_command()}{' --toward' * engine.record.takes_target} "
                "--precision bf16; or run on the CPU: backend='onnxruntime'",
            )
    try:
        with atomic_file(path) as file:
            file.write_text(f"{engine.path.name} on {gpu.name} with {backend.name}: {len(every)} images\n")
    except OSError as error:
        return f"its outputs are finite, and will be checked again: {error}"
    return ""


def _run(
    backend: TensorRTBackend, record: EngineRecord, reference: Reference, which: np.ndarray
) -> tuple[np.ndarray, ...]:
    """The engine's outputs for some reference images.

    An engine with targets gets the reference's targets, or if there are none the reference embeddings.
    """
    images = reference.images[which]
    if record.takes_target:
        toward = reference.embedding if reference.toward is None else reference.toward
        return backend.run_toward(images, toward[which])
    return (backend.embed(images),) if record.embedding_only else backend.run(images)
