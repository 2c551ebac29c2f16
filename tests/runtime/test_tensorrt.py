"""Which engine fits, and what a run does; the GPU itself is a stand-in (`fake_nvidia`)."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from fake_nvidia import FakeCudart, fake_tensorrt

from runtime.backends import cuda, tensorrt, tensorrt_library
from runtime.errors import BackendError, BackendUnavailable, EngineMismatch, InputError, IntegrityError
from runtime.manifest import EngineRecord, InputRecord
from runtime.package import Package

PLAN = b"a plan"
HERE = {"rtx": "1.7.1.116", "tensorrt": "10.3.0.30"}
CALLS = ("deserialize_cuda_engine", "create_execution_context", "set_input_shape", "set_tensor_address")
CALLS += ("execute_async_v3",)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    """A package without files; what the backend needs of it is its input and its engines."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    how = {
        "mean": (0, 0, 0),
        "std": (1, 1, 1),
        "resize": "squash",
        "crop_pct": 1,
        "interpolation": "bilinear",
    }
    manifest = SimpleNamespace(input=InputRecord(name="image", height=4, width=6, **how))
    (tmp_path / "toy.nemu").mkdir()
    return Package(tmp_path / "toy.nemu", manifest, "0" * 64)


def add(package: Package, name: str, **changes: object) -> None:
    record = EngineRecord(
        flavour="tensorrt",
        version=HERE["tensorrt"],
        compute_capability="8.9",
        precision="fp16",
        tensor_types={"HALF": 1},
        batch=(1, 1, 4),
        onnx="model.fp16.onnx",
        onnx_sha256="0",
        package=package.hash,
        flags={},
        parity={"not_run": "a toy"},
        build_seconds=1.0,
        sha256=hashlib.sha256(PLAN).hexdigest(),
    )
    package.add_engine(name, PLAN, dataclasses.replace(record, **changes))


@pytest.fixture
def versions(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Both libraries are here, in these versions."""
    here = dict(HERE)
    monkeypatch.setattr(tensorrt, "version", here.__getitem__)
    return here


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeCudart:
    """A GPU of compute capability 8.9 and TensorRT 10.3, both pretended."""
    cudart = FakeCudart()
    monkeypatch.setattr(cuda, "_cudart", lambda: cudart)
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(cudart))
    return cudart


# Selection.


def test_fp16_first_then_the_engine_of_this_very_gpu(package: Package, versions: dict[str, str]) -> None:
    add(package, "a-fp32", precision="fp32")
    assert tensorrt.select(package, "8.9").path.name == "a-fp32.engine"
    add(package, "b-portable", flavour="rtx", version=HERE["rtx"], compute_capability="portable")
    assert tensorrt.select(package, "8.9").path.name == "b-portable.engine"
    add(package, "c-exact")
    assert tensorrt.select(package, "8.9").path.name == "c-exact.engine"
    add(package, "d-other", compute_capability="8.6")
    assert tensorrt.select(package, "8.6").path.name == "d-other.engine"


@pytest.mark.parametrize(
    ("changes", "capability", "words"),
    [
        ({"version": "10.13.3.9"}, "8.9", "built for tensorrt 10.13.3.9, this is tensorrt 10.3.0.30"),
        ({"compute_capability": "8.7"}, "8.9", "built for compute capability 8.7, this is 8.9"),
        (
            {"flavour": "rtx", "version": HERE["rtx"], "compute_capability": "portable"},
            "7.5",
            "built for 8.0 and newer GPUs, this is 7.5",
        ),
        ({"flavour": "lean"}, "8.9", "built for lean, which this version of nemu does not know"),
    ],
)
def test_a_mismatch_says_what_it_was_built_for(
    package: Package, versions: dict[str, str], changes: dict, capability: str, words: str
) -> None:
    add(package, "toy", **changes)
    with pytest.raises(EngineMismatch) as error:
        tensorrt.select(package, capability)
    assert f"toy.engine: {words}" in error.value.came
    assert f"python -m export.build_engine --package {package.path}" in error.value.cure


def test_portable_runs_on_gpus_newer_than_the_library_names(
    package: Package, versions: dict[str, str]
) -> None:
    add(package, "toy", flavour="rtx", version=HERE["rtx"], compute_capability="portable")
    for capability in ("8.0", "9.0", "12.1"):
        assert tensorrt.select(package, capability).path.name == "toy.engine"


def test_one_engine_can_be_opened_by_itself(package: Package, gpu: FakeCudart) -> None:
    add(package, "fits")
    add(package, "other", compute_capability="8.7")
    fits, other = package.engines()
    tensorrt.open_engine(package, fits).close()
    with pytest.raises(
        EngineMismatch, match=r"other\.engine: built for compute capability 8\.7, this is 8\.9"
    ):
        tensorrt.open_engine(package, other)


def test_no_engine_at_all(package: Package) -> None:
    with pytest.raises(EngineMismatch, match="it holds none"):
        tensorrt.select(package, "8.9")


def test_a_missing_library_is_unavailable_unless_another_could_have_fitted(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    add(package, "classic")
    with pytest.raises(BackendUnavailable, match="tensorrt is not installed"):
        tensorrt.select(package, "8.9")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_tensorrt(FakeCudart(), version="1.5.0"))
    add(package, "rtx", flavour="rtx", version="1.7.1.116", compute_capability="portable")
    with pytest.raises(EngineMismatch, match=r"this is rtx 1\.5\.0") as error:
        tensorrt.select(package, "8.9")
    assert "classic.engine: tensorrt is not installed" in error.value.came


def test_tensorrt_8_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    old = fake_tensorrt(FakeCudart(), version="8.6.1")
    del old.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    with pytest.raises(BackendUnavailable, match=r"8\.6\.1 has no strongly typed networks.*\n.*JetPack 6\.1"):
        tensorrt_library.library("tensorrt")


@pytest.mark.skipif(not find_spec("cuda"), reason="cuda-bindings is not installed")
def test_the_driver_is_probed_before_any_tensorrt_object(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some versions crash the process where there is no driver; see `runtime.backends.cuda.driver`."""
    cudart = FakeCudart()
    cudart.fail["cudaGetDeviceCount"] = 35
    monkeypatch.setattr(cuda, "_cudart", lambda: cudart)
    add(package, "toy")
    for flavour in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, flavour, None)  # importing it would raise another error
    with pytest.raises(BackendUnavailable, match="NVIDIA driver"):
        tensorrt.open_backend(package)


# Running.


def photographs(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, 4, 6, 3), np.uint8)


def test_both_outputs_come_back_and_belong_to_the_caller(package: Package, gpu: FakeCudart) -> None:
    add(package, "toy")
    backend = tensorrt.open_backend(package)
    assert (backend.name, backend.precision, backend.max_batch) == ("tensorrt 10.3.0.30", "fp16", 4)
    assert "toy.engine" in backend.why
    assert "Fake GPU" in backend.why
    assert "no CUDA graph" in backend.degraded
    kept = []
    for n in (4, 1, 3):
        images = photographs(n)
        embedding, mask = backend.run(images)
        np.testing.assert_allclose(embedding, images.mean((1, 2)), rtol=1e-6)
        np.testing.assert_allclose(mask, images[..., 0] / np.float32(255), rtol=1e-6)
        assert (embedding.dtype, mask.dtype) == (np.float32, np.float32)
        kept.append((embedding, mask, embedding.copy(), mask.copy()))
    backend.close()
    for embedding, mask, embedding_then, mask_then in kept:
        np.testing.assert_array_equal(embedding, embedding_then)
        np.testing.assert_array_equal(mask, mask_then)


def test_fewer_images_than_the_profile_takes(package: Package, gpu: FakeCudart) -> None:
    add(package, "toy", batch=(2, 2, 4))
    embedding, mask = tensorrt.open_backend(package).run(photographs(1))
    assert (embedding.shape, mask.shape) == ((1, 3), (1, 4, 6))
    np.testing.assert_allclose(embedding, photographs(1).mean((1, 2)), rtol=1e-6)


def test_poison_shows_a_run_that_wrote_nothing(package: Package, gpu: FakeCudart) -> None:
    add(package, "toy")
    backend = tensorrt.open_backend(package)
    backend.poison()
    assert np.isfinite(backend.run(photographs(2))[1]).all()
    backend.poison()
    backend._context.execute_async_v3 = lambda stream: True
    embedding, mask = backend.run(photographs(2))
    assert np.isnan(embedding).all()
    assert np.isnan(mask).all()


def test_images_of_another_kind_are_refused(package: Package, gpu: FakeCudart) -> None:
    add(package, "toy")
    backend = tensorrt.open_backend(package)
    for images in (photographs(5), photographs(1)[:, :3], photographs(1).astype(np.float32)):
        with pytest.raises(InputError):
            backend.run(images)


def test_release_is_in_order_and_happens_once(package: Package, gpu: FakeCudart) -> None:
    add(package, "toy")
    backend = tensorrt.open_backend(package)
    gpu.events.clear()
    backend.close()
    backend.close()
    memory = ["cudaFree", "cudaFreeHost"] * 3
    assert gpu.events == ["IExecutionContext", "ICudaEngine", "Runtime", *memory, "cudaStreamDestroy"]
    assert not gpu.memory
    with pytest.raises(BackendError, match="after close"):
        backend.run(photographs(1))


@pytest.mark.parametrize("call", CALLS)
def test_tensorrts_own_reason_is_in_the_error(
    package: Package, gpu: FakeCudart, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(gpu, fail=call))
    add(package, "toy")
    with pytest.raises(BackendError, match=f"ERROR: {call} did not like it"):
        tensorrt.open_backend(package)
    assert not gpu.memory
    assert not gpu.streams


def test_an_engine_with_other_types_is_refused(
    package: Package, gpu: FakeCudart, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(gpu, fail="get_tensor_dtype"))
    add(package, "toy")
    with pytest.raises(BackendError, match="'mask': 'HALF'"):
        tensorrt.open_backend(package)


def test_failures_of_cuda_release_everything(package: Package, gpu: FakeCudart) -> None:
    add(package, "toy")
    gpu.fail["cudaMallocHost"] = 2
    with pytest.raises(BackendError, match="cudaMallocHost failed: cudaError2"):
        tensorrt.open_backend(package)
    assert not gpu.memory
    assert not gpu.streams


def test_a_changed_engine_is_refused(package: Package, gpu: FakeCudart) -> None:
    add(package, "toy")
    (package.path / "engines/toy.engine").write_bytes(PLAN[:-1] + b"N")
    with pytest.raises(IntegrityError, match=r"toy\.engine is not the file that was written"):
        tensorrt.open_backend(package)
    assert not gpu.memory


@pytest.mark.skipif(not find_spec("tensorrt_rtx"), reason="tensorrt_rtx is not installed")
def test_rtx_is_asked_whether_the_plan_is_valid_here(
    package: Package, gpu: FakeCudart, versions: dict[str, str]
) -> None:
    """The GPU is pretended, tensorrt_rtx is real: it refuses what is no plan."""
    add(package, "toy", flavour="rtx", version=HERE["rtx"], compute_capability="portable")
    with pytest.raises(EngineMismatch, match=r"toy\.engine: TensorRT-RTX on Fake GPU \(8\.9\): .* corrupt"):
        tensorrt.open_backend(package)


@pytest.mark.skipif(not find_spec("tensorrt_rtx"), reason="tensorrt_rtx is not installed")
def test_the_stand_in_has_no_name_of_its_own() -> None:
    real, fake = tensorrt_library.library("rtx"), fake_tensorrt(FakeCudart())
    for kind in ("ILogger", "Runtime", "ICudaEngine", "IExecutionContext"):
        names = [name for name in vars(getattr(fake, kind)) if not name.startswith("_")]
        assert names
        assert [name for name in names if not hasattr(getattr(real, kind), name)] == []
