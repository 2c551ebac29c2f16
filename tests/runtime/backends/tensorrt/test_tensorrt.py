"""Which engine fits; the GPU is a fake (`fake_gpu`)."""

from __future__ import annotations

import gc
import sys
from dataclasses import replace
from importlib.util import find_spec

import pytest

from runtime.backends import cuda
from runtime.backends.cuda.bindings import CudaBindings
from runtime.backends.tensorrt import library as tensorrt_library
from runtime.backends.tensorrt import selection as tensorrt
from runtime.errors import BackendError, BackendUnavailable, EngineMismatch, IntegrityError
from runtime.package.records import ParityRecord
from tests.runtime.fake_gpu import Gpu
from tests.runtime.fake_tensorrt import fake_tensorrt

HERE = {"rtx": "1.7.1.116", "tensorrt": "10.3.0.30"}
PORTABLE = {"flavour": "rtx", "version": HERE["rtx"], "compute_capability": "portable"}


@pytest.fixture
def versions(monkeypatch):
    """Both libraries are installed, in these versions."""
    monkeypatch.setattr(tensorrt, "version", HERE.__getitem__)


def test_fp16_comes_first_then_the_exact_gpu(toy, add, versions):
    for name, capability, changes in (
        ("a-fp32", "8.9", {"precision": "fp32"}),
        ("b-portable", "8.9", PORTABLE),
        ("c-exact", "8.9", {}),
        ("d-other", "8.6", {"compute_capability": "8.6"}),
    ):
        add(toy, name, **changes)
        assert tensorrt.select(toy, capability).path.name == f"{name}.engine"


@pytest.mark.parametrize(
    ("changes", "capability", "words"),
    [
        ({"version": "10.13.3.9"}, "8.9", "built for tensorrt 10.13.3.9, this is tensorrt 10.3.0.30"),
        ({"compute_capability": "8.7"}, "8.9", "built for compute capability 8.7, this is 8.9"),
        (PORTABLE, "7.5", "built for 8.0 and newer GPUs, this is 7.5"),
        ({"flavour": "quick"}, "8.9", "built for quick, which this version of nemu does not know"),
    ],
)
def test_a_mismatch_says_what_the_engine_needs(toy, add, versions, changes, capability, words):
    add(toy, "toy", **changes)
    with pytest.raises(EngineMismatch) as error:
        tensorrt.select(toy, capability)
    assert f"toy.engine: {words}" in error.value.came
    assert f"nemu build --package {toy.path}" in error.value.cure


def test_portable_engines_fit_newer_gpus(toy, add, versions):
    add(toy, "toy", **PORTABLE)
    for capability in ("8.0", "9.0", "12.1"):
        assert tensorrt.select(toy, capability).path.name == "toy.engine"


def test_open_engine_opens_one_given_engine(toy, add, gpu):
    add(toy, "fits")
    add(toy, "other", compute_capability="8.7")
    fits, other = toy.engines()
    tensorrt.open_engine(toy, fits).close()
    with pytest.raises(
        EngineMismatch, match=r"other\.engine: built for compute capability 8\.7, this is 8\.9"
    ):
        tensorrt.open_engine(toy, other)


@pytest.fixture
def hopper(toy, add, rtx, monkeypatch):
    """A portable engine of TensorRT-RTX, on a GPU that this library does not list."""
    info = replace(cuda.device(0), compute_capability="9.0")
    monkeypatch.setattr(CudaBindings, "device", lambda self, index: info)
    add(toy, "toy", **rtx)
    return toy


def test_an_engine_is_tried_on_unlisted_gpus(hopper, gpu):
    backend = tensorrt.open_backend(hopper)
    assert "TensorRT-RTX does not list Fake GPU (9.0) among its GPUs" in backend.why
    backend.close()
    assert not gpu.live()


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            "get_engine_validity",
            r"TensorRT-RTX 1\.7\.1\.116 does not support Fake GPU \(9\.0\): no engine of it can run there\n"
            r"  expected: an engine of flavour tensorrt for .*9\.0\n.*--target tensorrt, .*'onnxruntime'",
        ),
        ("deserialize_cuda_engine", r"does not list Fake GPU \(9\.0\).*, and there it does not run: "),
        ("execute_async_v3", r"and there it does not run: .*execute_async_v3 failed"),
    ],
)
def test_a_failure_on_unlisted_gpus_is_a_mismatch(hopper, gpu, fault, words):
    gpu.fail[fault] = 1
    with pytest.raises(EngineMismatch, match=words):
        tensorrt.open_backend(hopper)
    gc.collect()
    assert not gpu.live()


def test_a_build_is_not_gated_on_unlisted_gpus(hopper, gpu):
    attach = pytest.importorskip("export.package.attach")
    (engine,) = hopper.engines()
    parity = attach._gate(hopper, engine.read(), engine.record)
    assert parity == ParityRecord(not_run="mismatch")


def test_failure_on_a_listed_gpu_is_no_mismatch(open_toy, rtx, gpu):
    gpu.fail["execute_async_v3"] = 1
    with pytest.raises(BackendError, match="execute_async_v3 failed") as error:
        open_toy(**rtx)
    assert not isinstance(error.value, EngineMismatch)


def test_a_package_without_engines_is_a_mismatch(toy, add):
    with pytest.raises(EngineMismatch, match="it holds none"):
        tensorrt.select(toy, "8.9")


def test_only_missing_libraries_make_the_backend_unavailable(toy, add, monkeypatch):
    for name in ("tensorrt", "tensorrt_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    add(toy, "classic")
    with pytest.raises(BackendUnavailable, match="tensorrt is not installed, nor is tensorrt_bindings"):
        tensorrt.select(toy, "8.9")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_tensorrt(Gpu(), version="1.5.0"))
    add(toy, "rtx", **PORTABLE)
    with pytest.raises(EngineMismatch, match=r"this is rtx 1\.5\.0") as error:
        tensorrt.select(toy, "8.9")
    assert "classic.engine: tensorrt is not installed" in error.value.came


@pytest.mark.parametrize(("flavour", "module"), tensorrt_library._MODULES.items())
def test_the_bindings_module_replaces_a_missing_module(toy, add, gpu, monkeypatch, flavour, module):
    add(toy, "toy", flavour=flavour, version="11.4.0.106")
    said = []
    for name in (module, f"{module}_bindings"):
        trt = fake_tensorrt(gpu, version="11.4.0.106", rtx=flavour == "rtx")
        trt.__name__ = name
        monkeypatch.setitem(sys.modules, module, None)  # missing in the second round
        monkeypatch.setitem(sys.modules, name, trt)
        assert tensorrt_library.library(flavour) is tensorrt_library.library(flavour)
        backend = tensorrt.open_backend(toy)
        said.append((backend.name, backend.why, tensorrt_library.version(flavour)))
        backend.close()
    assert said[0] == said[1]
    assert said[0][0] == f"{module} 11.4.0.106"


@pytest.mark.parametrize("file", ["tensorrt", "tensorrt_bindings"])
def test_a_broken_library_is_not_called_missing(tmp_path, monkeypatch, file):
    """For example if a shared library is missing, or NVIDIA's wheel for this module is."""
    (tmp_path / f"{file}.py").write_text("import libnvinfer_that_is_not_here")
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("tensorrt", "tensorrt_bindings"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    with pytest.raises(BackendUnavailable, match=f"^{file} is installed but does not load: No module named"):
        tensorrt_library.library("tensorrt")


def test_tensorrt_8_is_refused(monkeypatch):
    old = fake_tensorrt(Gpu(), version="8.6.1")
    del old.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    with pytest.raises(BackendUnavailable, match=r"8\.6\.1 has no strongly typed networks") as error:
        tensorrt_library.library("tensorrt")
    assert error.value.expected == "TensorRT 10.0 or newer (JetPack 6.1 or newer)"
    assert error.value.cure.startswith("upgrade JetPack")


def test_the_driver_is_probed_before_any_tensorrt_object(toy, add, gpu, monkeypatch):
    """Some versions crash the process if there is no driver; see `runtime.backends.cuda.driver`."""
    gpu.fail["cuInit"] = 100
    add(toy, "toy")
    for flavour in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, flavour, None)  # an import would raise another error
    with pytest.raises(BackendUnavailable, match="NVIDIA driver"):
        tensorrt.open_backend(toy)


def test_a_changed_engine_is_refused(toy, add, gpu):
    add(toy, "toy")
    (toy.path / "engines/toy.engine").write_bytes(b"a plaN")
    with pytest.raises(IntegrityError, match=r"toy\.engine is not the file that was written"):
        tensorrt.open_backend(toy)
    assert not gpu.live()


@pytest.mark.skipif(not find_spec("tensorrt_rtx"), reason="tensorrt_rtx is not installed")
def test_rtx_checks_the_validity_of_plans(toy, add, gpu, versions):
    """The GPU is a fake, tensorrt_rtx is real: it refuses a file that is not a plan."""
    add(toy, "toy", **PORTABLE)
    with pytest.raises(EngineMismatch, match=r"toy\.engine: TensorRT-RTX on Fake GPU \(8\.9\): .* corrupt"):
        tensorrt.open_backend(toy)
