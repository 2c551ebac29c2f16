"""NVIDIA's TensorRT-RTX as an execution provider of onnxruntime: an RTX card by pip alone, without an engine.

    pip install onnxruntime-ep-nv-tensorrt-rtx "onnxruntime>=1.24"

The wheel contains TensorRT-RTX, for Linux and Windows.  onnxruntime gives it the package's ONNX graph, and it
compiles the graph when the package is opened; it keeps the kernels in the user's cache directory, so that the
next opening is fast.  The build of the package did not check the provider's outputs.  So every opening runs
the reference images and compares the outputs with the limits of the precision.

Importing the wheel's module loads its libraries for the whole process and adds its folder to
LD_LIBRARY_PATH; so it is imported only where there is a driver.  The provider's options are documented in the
wheel's `tensorrt_rtx_provider_options.h` (0.5.0).
"""

from __future__ import annotations

import ctypes
import functools
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from runtime.backends.cuda import installed
from runtime.backends.cuda.base import no_driver
from runtime.backends.onnxruntime import EMBEDDING_MODELS, OnnxRuntimeBackend, first_line, ort
from runtime.errors import BackendUnavailable, EngineMismatch
from runtime.package.folder import GRAPHS, REFERENCE, TOWARD_GRAPHS, Package
from runtime.package.manifest import TOWARD
from runtime.verify import verify, verify_embedding, verify_toward

MODULE = "onnxruntime_ep_nv_tensorrt_rtx"
INSTALL = 'pip install onnxruntime-ep-nv-tensorrt-rtx "onnxruntime>=1.24" (Python 3.11 or newer)'
DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_LOCK = threading.Lock()
_CPU = "or use the CPU: backend='onnxruntime'"


class RtxProviderBackend(OnnxRuntimeBackend):
    """Runs the package's graph of one precision on an RTX card: fp16 if the package has it, else fp32.

    Every operator runs on the card; an operator that the provider does not support is an error.

    Args:
        device: index into the provider's list of cards.

    Raises:
        BackendUnavailable: the provider, the driver or the card is not here.
        PackageError: the package was built without that precision.
        EngineMismatch: the provider does not support the graph.
        BackendError: a run failed.
        ParityError: its outputs differ from the package's reference.
    """

    name = "ep-rtx"
    models = GRAPHS
    embedding_models: ClassVar = {"fp32": EMBEDDING_MODELS["fp32"]}
    toward_models = TOWARD_GRAPHS

    def _find_device(self) -> None:
        cards = devices()
        if not 0 <= self.device < len(cards):
            raise BackendUnavailable(
                f"device {self.device} is not among the {len(cards)} card(s) of ep-rtx",
                expected=f"0 to {len(cards) - 1}",
                cure="choose another device",
            )
        self._card = cards[self.device]
        self._notes: list[str] = []

    def _default_precision(self) -> str:
        files = self._package.manifest.files
        graphs = (GRAPHS, TOWARD_GRAPHS) if TOWARD_GRAPHS["fp32"] in files else (GRAPHS,)
        return "fp16" if all(of["fp16"] in files for of in graphs) else "fp32"

    def _open(self, path: Path) -> Any:
        module, options = ort(), ort().SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        given = self._options(path)
        try:
            options.add_provider_for_devices([self._card], given)
            # enable_fallback=0: otherwise onnxruntime uses the CPU when opening or a run fails.
            return module.InferenceSession(str(path), sess_options=options, enable_fallback=0)
        except Exception as error:  # its exceptions share no base but this
            raise EngineMismatch(
                f"{self._where()} cannot take {path}: {first_line(error)}",
                expected="a graph whose operators it all supports",
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
            # Commas: it does not read the header's semicolons.
            options[f"nv_profile_{which}_shapes"] = ",".join(each)
        return options

    def _where(self) -> str:
        card = self._card.device.metadata.get("Description") or f"card {self.device}"
        return f"onnxruntime {ort().__version__} with TensorRT-RTX ({provider().__version__}) on {card}"

    def _check_outputs(self, *, mask: bool, toward: bool) -> None:
        """Verify the reference images, one by one and in the largest batch; close the session on failure."""
        if REFERENCE in self._package.manifest.files:
            most = self.max_batch
            check: Callable[..., Any] = verify_toward if toward else verify if mask else verify_embedding
            try:
                for self.max_batch in sorted({1, most}):
                    check(self._package, self)
            except BaseException:
                self.close()
                raise
        else:
            self._notes.append(f"its outputs were not checked: the package has no {REFERENCE}")
        self.why = "; ".join([self.why, *self._notes])


def runs(package: Package, precision: str | None) -> bool:
    """Whether `auto` tries it: it is installed, and the package has a graph of `precision` (None: of any)."""
    return installed(MODULE) and (precision is None or GRAPHS.get(precision) in package.manifest.files)


def devices() -> list[Any]:
    """The provider's list of cards, at least one; each is an `OrtEpDevice` of onnxruntime.

    Raises:
        BackendUnavailable: the provider is not here, does not load, or lists none.
    """
    name = provider().get_ep_name()
    if found := [device for device in ort().get_ep_devices() if device.ep_name == name]:
        return found
    raise BackendUnavailable(
        f"onnxruntime's TensorRT-RTX provider {provider().__version__} lists no card",
        expected="an RTX card of compute capability 8.6, 8.9, 12.0 or newer, and a driver for CUDA 13 (r580)",
        cure=f"nvidia-smi shows card and driver; other cards need an engine: --backend tensorrt; {_CPU}",
    )


def provider() -> Any:
    """Import NVIDIA's module and register its library with onnxruntime, once per process.

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
        return found  # the application has already registered it
    try:
        module.register_execution_provider_library(name, path)
    except Exception as error:  # its exceptions share no base but this
        raise BackendUnavailable(
            f"onnxruntime {module.__version__} does not register TensorRT-RTX: {first_line(error)}",
            expected="an NVIDIA driver for CUDA 13 (r580 or newer), with libcuda and libnvidia-ml",
            cure=f"upgrade the driver; or both packages: {INSTALL}; {_CPU}",
        ) from error
    return found
