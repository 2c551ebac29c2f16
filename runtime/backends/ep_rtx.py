"""NVIDIA's TensorRT-RTX as an execution provider of onnxruntime: an RTX card by pip alone, without an engine.

    pip install onnxruntime-ep-nv-tensorrt-rtx "onnxruntime>=1.24"

The wheel brings TensorRT-RTX with it, for Linux and Windows.  onnxruntime hands it the package's ONNX graph,
which it compiles when the package is opened; kernels are kept in the user's cache directory, so that the next
opening is fast.  No gate was passed with it when the package was built, so the package's reference images run
at every opening and are held against the gate of the precision.

The wheel's module, when it is imported, loads its libraries for the whole process and puts its folder into
LD_LIBRARY_PATH; so it is imported only where there is a driver.  The provider's options stand in the wheel's
`tensorrt_rtx_provider_options.h` (0.5.0).
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
from pathlib import Path
from typing import Any, ClassVar

from runtime.backends.cuda import installed, no_driver
from runtime.backends.onnxruntime import EMBEDDING_MODELS, OnnxRuntimeBackend, first_line, ort
from runtime.errors import BackendUnavailable, EngineMismatch
from runtime.manifest import TOWARD
from runtime.package import GRAPHS, REFERENCE, TOWARD_GRAPHS, Package
from runtime.verify import verify, verify_embedding, verify_toward

MODULE = "onnxruntime_ep_nv_tensorrt_rtx"
INSTALL = 'pip install onnxruntime-ep-nv-tensorrt-rtx "onnxruntime>=1.24" (Python 3.11 or newer)'
DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_LOCK = threading.Lock()
_CPU = "or use the CPU: backend='onnxruntime'"


class RtxProviderBackend(OnnxRuntimeBackend):
    """Runs the package's graph of one precision, fp16 if it has one, on an RTX card; see the module.

    An operator that the provider does not take is an error: nothing is left to the CPU.

    Args:
        device: number of the card, among those that the provider lists.

    Raises:
        BackendUnavailable: the provider, the driver or the card is not here.
        PackageError: the package was built without that precision.
        EngineMismatch: the provider does not take the graph.
        BackendError: a run failed.
        ParityError: its outputs are not the package's.
    """

    name = "ep-rtx"
    models = GRAPHS
    embedding_models: ClassVar = {"fp32": EMBEDDING_MODELS["fp32"]}
    toward_models = TOWARD_GRAPHS

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
        cards = devices()
        if not 0 <= device < len(cards):
            raise BackendUnavailable(
                f"device {device} is not among the {len(cards)} card(s) of ep-rtx",
                expected=f"0 to {len(cards) - 1}",
                cure="choose another device",
            )
        self.device, self._card = device, cards[device]
        self._notes: list[str] = []
        self._package = package
        super().__init__(package, why=why, precision=precision, mask=mask, toward=toward)
        try:
            self._hold(mask=mask, toward=toward)
        except BaseException:
            self.close()
            raise
        self.why = "; ".join([self.why, *self._notes])

    def another(
        self, package: Package, *, why: str, mask: bool = True, toward: bool = False
    ) -> RtxProviderBackend:
        """See `OnnxRuntimeBackend.another`."""
        return RtxProviderBackend(
            package, why=why, precision=self.precision, mask=mask, toward=toward, device=self.device
        )

    def _usual(self, package: Package) -> str:
        graphs = (GRAPHS, TOWARD_GRAPHS) if TOWARD_GRAPHS["fp32"] in package.manifest.files else (GRAPHS,)
        return "fp16" if all(of["fp16"] in package.manifest.files for of in graphs) else "fp32"

    def _open(self, path: Path) -> Any:
        module, options = ort(), ort().SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        given = self._options(path)
        try:
            options.add_provider_for_devices([self._card], given)
            # Without fallback: where opening or a run fails, onnxruntime would go on with the CPU.
            return module.InferenceSession(str(path), sess_options=options, enable_fallback=0)
        except Exception as error:  # its exceptions share no base but this
            raise EngineMismatch(
                f"{self._where()} cannot take {path}: {first_line(error)}",
                expected="a graph of which it takes every operator",
                cure=f"another precision, an engine of the package (--backend tensorrt); {_CPU}",
            ) from error

    def _options(self, path: Path) -> dict[str, str]:
        """The provider's options for one graph."""
        manifest, options = self._package.manifest, dict[str, str]()
        cache = self._package.cache() / "ep-rtx" / manifest.files[path.name][:16]
        try:
            cache.mkdir(parents=True, exist_ok=True)
            options["nv_runtime_cache_path"] = str(cache)
        except OSError as error:
            self._notes.append(f"kernels are not kept, and are compiled at each opening: {error}")
        if isinstance(manifest.outputs[0].shape[0], int):
            return options
        shapes: dict[str, tuple[int, ...]] = {
            manifest.input.name: (manifest.input.height, manifest.input.width, 3)
        }
        if path.name in TOWARD_GRAPHS.values():
            shapes[TOWARD] = (manifest.encoder.dimension,)
        for which, batch in (("min", 1), ("opt", 1), ("max", self.most)):
            each = (f"{name}:{'x'.join(map(str, (batch, *shape)))}" for name, shape in shapes.items())
            options[f"nv_profile_{which}_shapes"] = ",".join(each)  # the header's ; is not what it reads
        return options

    def _where(self) -> str:
        told = self._card.device.metadata.get("Description") or f"card {self.device}"
        return f"onnxruntime {ort().__version__} with TensorRT-RTX ({provider().__version__}) on {told}"

    def _hold(self, *, mask: bool, toward: bool) -> None:
        """Hold the reference outputs against the gate, one image at a time and in the largest batch."""
        if REFERENCE not in self._package.manifest.files:
            self._notes.append(f"its outputs were not checked: the package has no {REFERENCE}")
            return
        most = self.max_batch
        for self.max_batch in sorted({1, most}):
            if toward:
                verify_toward(self._package, self)
            elif mask:
                verify(self._package, self)
            else:
                verify_embedding(self._package, self)


def runs(package: Package, precision: str | None) -> bool:
    """Whether `auto` may try it: it is installed, and the package has a graph of that precision, or any."""
    return installed(MODULE) and (precision is None or GRAPHS.get(precision) in package.manifest.files)


def devices() -> list[Any]:
    """The cards that the provider lists, onnxruntime's `OrtEpDevice` each, at least one.

    Raises:
        BackendUnavailable: the provider is not here, does not load, or lists none.
    """
    name = provider().get_ep_name()
    if found := [device for device in ort().get_ep_devices() if device.ep_name == name]:
        return found
    raise BackendUnavailable(
        f"onnxruntime's TensorRT-RTX provider {provider().__version__} lists no card",
        expected="an RTX card of compute capability 8.6, 8.9, 12.0 or newer, and a driver for CUDA 13 (r580)",
        cure=f"nvidia-smi shows card and driver; other cards take an engine: --backend tensorrt; {_CPU}",
    )


def provider() -> Any:
    """NVIDIA's module, after onnxruntime was told of its library: once per process.

    Raises:
        BackendUnavailable: it is not installed, onnxruntime is older than 1.24, or there is no driver for it.
    """
    with _LOCK:
        return _provider()


@functools.cache
def _provider() -> Any:
    if not installed(MODULE):
        raise BackendUnavailable(
            f"{MODULE} is not installed", expected="onnxruntime's provider of TensorRT-RTX", cure=INSTALL
        )
    try:
        ctypes.CDLL(DRIVER)
    except OSError as error:
        raise no_driver(version="0.0", why=str(error)) from error
    module = ort()
    if tuple(map(int, module.__version__.split(".")[:2])) < (1, 24):
        raise BackendUnavailable(
            f"onnxruntime {module.__version__}", expected="onnxruntime 1.24 or newer", cure=INSTALL
        )
    try:
        import onnxruntime_ep_nv_tensorrt_rtx as found

        name, path = found.get_ep_name(), found.get_library_path()
    except (ImportError, OSError) as error:
        raise BackendUnavailable(
            f"{MODULE} does not load: {error}",
            expected="NVIDIA's wheel as it was published",
            cure=f"pip install --force-reinstall onnxruntime-ep-nv-tensorrt-rtx; {_CPU}",
        ) from error
    if any(device.ep_name == name for device in module.get_ep_devices()):
        return found  # the application has registered it
    try:
        module.register_execution_provider_library(name, path)
    except Exception as error:  # its exceptions share no base but this
        raise BackendUnavailable(
            f"onnxruntime {module.__version__} does not register TensorRT-RTX: {first_line(error)}",
            expected="an NVIDIA driver for CUDA 13 (r580 or newer), with libcuda and libnvidia-ml",
            cure=f"upgrade the driver; or both packages: {INSTALL}; {_CPU}",
        ) from error
    return found
