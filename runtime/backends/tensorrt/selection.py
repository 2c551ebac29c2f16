"""Chooses and opens the engine of the package that fits this machine.

The driver is probed before any TensorRT object exists, because some versions crash without a driver.  The
engine's sidecar is compared with this machine before the plan is deserialised.

An engine in half precision may overflow on another GPU than the one that built and checked it, so the first
opening on a device checks that.
"""

from __future__ import annotations

import hashlib

import numpy as np

from runtime.atomic import atomic_file
from runtime.backends import cuda
from runtime.backends.cuda.base import DeviceInfo
from runtime.backends.tensorrt.backend import TensorRTBackend
from runtime.backends.tensorrt.engine import engine_here
from runtime.backends.tensorrt.library import FLAVOURS, validity, version
from runtime.device_explanation import not_finite
from runtime.errors import BackendError, BackendUnavailable, EngineMismatch
from runtime.package.folder import REFERENCE, Engine, Package
from runtime.package.manifest import OUTPUTS, EngineRecord
from runtime.package.reference import Reference, load_reference

RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""Build targets of TensorRT-RTX 1.7: without Hopper, data-centre Blackwell and Jetson.

On another GPU the library itself is asked (`refused`); on an H200 (9.0) version 1.7.1 refuses.
"""

__all__ = ["TensorRTBackend"]  # imported from here by those who open one


def open_backend(
    package: Package,
    *,
    device: int = 0,
    precision: str | None = None,
    mask: bool = True,
    toward: bool = False,
) -> TensorRTBackend:
    """Open the engine of `package` that fits this machine best.

    Args:
        device: number of the GPU.
        precision, mask, toward: see `select`.

    Raises:
        BackendUnavailable: there is no driver, no such device, or no library for any engine of the package.
        EngineMismatch: no engine fits; says what each was built for, and the command that builds one.
        IntegrityError: the engine has another hash than its sidecar says.
        BackendError: the engine does not load, or gives values that are not finite.
    """
    gpu = cuda.device(device)
    engine = select(package, gpu.compute_capability, precision, mask=mask, toward=toward)
    backend = open_engine(package, engine, device=device, unlisted=True)
    try:
        if said := check_first_opening(package, engine, backend, gpu):
            backend.why += f"; {said}"
    except BaseException:
        backend.close()
        raise
    return backend


def open_engine(
    package: Package, engine: Engine, *, device: int = 0, unlisted: bool = False
) -> TensorRTBackend:
    """Open one engine of `package`; raises the errors of `open_backend`.

    Args:
        unlisted: try an engine of TensorRT-RTX also on a GPU that is not in `RTX_CAPABILITIES`, if the
            library itself accepts it there.  If it then fails, that is an `EngineMismatch`.
    """
    gpu = cuda.device(device)
    reason = misfit(engine.record, gpu.compute_capability)
    plan = engine.read()
    rtx = engine.record.flavour == "rtx"
    outside = not_listed(f"{gpu.name} ({gpu.compute_capability})", gpu.compute_capability) if rtx else ""
    if not reason and not unlisted:
        reason = outside
    if not reason and rtx:
        reason = refused(plan, gpu)
    if reason:
        raise _mismatch(package, f"{engine.path.name}: {reason}", gpu.compute_capability)
    try:
        backend = TensorRTBackend(engine, plan=plan, input=package.manifest.input, gpu=gpu)
    except BackendError as error:
        if not outside:
            raise
        reason = f"{outside}, and there it does not run: {error.came}"
        raise _mismatch(package, f"{engine.path.name}: {reason}", gpu.compute_capability) from error
    backend.why += f"; {outside}" * bool(outside)
    return backend


def check_first_opening(package: Package, engine: Engine, backend: TensorRTBackend, gpu: DeviceInfo) -> str:
    """Run the reference images through the engine, unless the check succeeded here before.

    Success is recorded as a file in the user's cache directory; a failure raises at every opening.

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


def select(
    package: Package,
    capability: str,
    precision: str | None = None,
    *,
    mask: bool = True,
    toward: bool = False,
) -> Engine:
    """Select an engine of `package` that fits this machine: fp16 first, then one built for exactly this GPU.

    Args:
        capability: compute capability of the GPU, such as `8.7`.
        precision: of the engine; None is any.
        mask: True selects only engines with a mask; False prefers engines without one, after precision.
        toward: True selects only engines that take a target; False only engines that take none.

    Raises:
        BackendUnavailable: every engine needs a library that is not here.
        EngineMismatch: no engine fits, or the package has none.
    """
    fitting: list[Engine] = []
    refused: list[str] = []
    missing: list[BackendUnavailable] = []
    for engine in package.engines():
        try:
            reason = misfit(engine.record, capability)
        except BackendUnavailable as error:
            missing.append(error)
            reason = error.came
        if not reason and precision not in (None, engine.record.precision):
            reason = f"it is {engine.record.precision}, not {precision}"
        reason = reason or _other_form(engine.record, mask=mask, toward=toward)
        if reason:
            refused.append(f"{engine.path.name}: {reason}")
        else:
            fitting.append(engine)
    if fitting:
        return min(fitting, key=_preference)
    if missing and len(missing) == len(refused):
        raise missing[0]
    options = " --toward" * toward + f" --precision {precision}" * (toward and precision is not None)
    raise _mismatch(package, "\n    ".join(refused) or "it holds none", capability, options)


def misfit(record: EngineRecord, capability: str) -> str:
    """Why an engine cannot run here, as "built for X, this is Y"; empty if it can.

    Raises:
        BackendUnavailable: its library is not here.
    """
    if record.flavour not in FLAVOURS:
        return f"built for {record.flavour}, which this version of nemu does not know"
    here = version(record.flavour)
    if here != record.version:
        return f"built for {record.flavour} {record.version}, this is {record.flavour} {here}"
    if record.compute_capability == "portable":
        # TensorRT-RTX compiles the rest of a portable plan on the GPU; Turing (7.5) needs a separate plan.
        return "" if float(capability) >= 8 else f"built for 8.0 and newer GPUs, this is {capability}"
    if record.compute_capability != capability:
        return f"built for compute capability {record.compute_capability}, this is {capability}"
    return ""


def refused(plan: bytes, gpu: DeviceInfo) -> str:
    """Why TensorRT-RTX itself refuses a plan that `misfit` accepted; empty if it accepts it.

    Raises:
        BackendUnavailable: tensorrt_rtx is not installed.
    """
    with cuda.implementation().current(gpu.index):
        judged = validity(plan)
    if judged.answer in ("VALID", "SUBOPTIMAL"):
        return ""
    where = f"{gpu.name} ({gpu.compute_capability})"
    if "UNSUPPORTED_CC" in judged.reasons:  # the plan is for this GPU, so the library is not
        return f"TensorRT-RTX {version('rtx')} does not support {where}: no engine of it can run there"
    return f"TensorRT-RTX on {where}: {judged.meaning}"


def not_listed(gpu: str, capability: str) -> str:
    """A sentence that TensorRT-RTX does not list this GPU; empty if it lists the compute capability."""
    return "" if capability in RTX_CAPABILITIES else f"TensorRT-RTX does not list {gpu} among its GPUs"


def _other_form(record: EngineRecord, *, mask: bool, toward: bool) -> str:
    """Why an engine has not the inputs and outputs that are asked for; empty if it has."""
    if record.takes_target != toward:
        return "it takes no target" if toward else "it takes a target, and a plain call has none"
    return "it gives the embedding alone, for indexing" if mask and record.embedding_only else ""


def _mismatch(package: Package, reasons: str, capability: str, options: str = "") -> EngineMismatch:
    flavours, cure = " or ".join(FLAVOURS), f"run: {package.build_command()}{options}"
    if capability not in RTX_CAPABILITIES:
        flavours = "tensorrt"
        cure += " --target tensorrt, on this GPU, with the classic TensorRT; or backend='onnxruntime'"
    return EngineMismatch(
        f"no engine of {package.path} fits this machine\n    {reasons}",
        expected=f"an engine of flavour {flavours} for compute capability {capability}",
        cure=cure,
    )


def _preference(engine: Engine) -> tuple[bool, bool, bool, str]:
    record = engine.record
    portable = record.compute_capability == "portable"
    return record.precision != "fp16", not record.embedding_only, portable, engine.path.name
