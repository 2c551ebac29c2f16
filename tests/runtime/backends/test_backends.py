"""Which backend is chosen, and the CPU backend on a real graph."""

from __future__ import annotations

import builtins
import dataclasses
import sys

import numpy as np
import pytest

from runtime.backends import choice
from runtime.backends.fake import FakeBackend
from runtime.backends.onnxruntime import OnnxRuntimeBackend
from runtime.backends.tensorrt import selection
from runtime.errors import (
    BackendError,
    BackendUnavailable,
    EngineMismatch,
    InputError,
    IntegrityError,
    PackageError,
)
from runtime.package.folder import Package

RANDOM = np.random.default_rng(1).integers(0, 256, (3, 24, 32, 3), dtype=np.uint8)


@pytest.fixture
def with_engine(tiny, monkeypatch):
    """A package that says it has an engine, which opens as told."""

    def arrange(answer):
        def open_backend(package, *, device, precision, mask):
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(selection, "open_backend", open_backend)
        monkeypatch.setattr(Package, "engines", lambda self: ["an engine"])
        return tiny

    return arrange


def test_onnxruntime_computes_the_graph_with_its_external_weights(tiny, outputs):
    backend = choice.choose(tiny)
    embedding, mask = backend.run(RANDOM)
    expected = outputs(RANDOM)
    assert embedding.dtype == mask.dtype == np.float32
    assert np.allclose(embedding, expected[0], atol=1e-6)
    assert np.allclose(mask, expected[1], atol=1e-6)
    assert backend.name == "onnxruntime"
    assert "no engine" in backend.why
    assert "threads" in backend.why


def test_the_caller_owns_the_outputs(tiny):
    backend = choice.choose(tiny)
    first = backend.run(RANDOM)
    kept = [array.copy() for array in first]
    backend.run(255 - RANDOM)
    for array, copy in zip(first, kept, strict=True):
        assert np.array_equal(array, copy)
        array[:] = 0  # and may write to them


def test_threads_sleep_while_they_wait(tiny):
    options = choice.choose(tiny)._session.get_session_options()
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"


@pytest.mark.parametrize(
    "images",
    [
        RANDOM.astype(np.float32),
        RANDOM[0],
        RANDOM.transpose(0, 3, 1, 2),
        RANDOM[:, :23],
        RANDOM[:0],
        np.zeros((99, 24, 32, 3), np.uint8),
        [RANDOM],
    ],
)
def test_wrong_images_are_refused(tiny, images):
    with pytest.raises(InputError, match=r"uint8 \(N, 24, 32, 3\), N from 1 to 8"):
        choice.choose(tiny).run(images)


def test_images_of_any_strides_are_accepted(tiny, outputs):
    mirrored = RANDOM[:, :, ::-1]
    assert np.allclose(choice.choose(tiny).run(mirrored)[1], outputs(mirrored)[1], atol=1e-6)


def test_a_closed_backend_refuses_runs(tiny):
    backend = choice.choose(tiny)
    backend.close()
    backend.close()
    with pytest.raises(BackendError, match="closed"):
        backend.run(RANDOM)


def test_without_onnxruntime_the_error_names_the_command(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(BackendUnavailable, match="pip install onnxruntime"):
        choice.choose(tiny)


def test_an_unloadable_graph_is_a_backend_error(tiny):
    (tiny.path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(BackendError, match=r"cannot load .*model\.onnx"):
        OnnxRuntimeBackend(tiny)


def test_a_failed_run_is_a_backend_error(tiny, monkeypatch):
    backend = choice.choose(tiny)
    monkeypatch.setattr(backend, "_input", dataclasses.replace(backend._input, name="other"))
    with pytest.raises(BackendError, match="onnxruntime failed") as caught:
        backend.run(RANDOM)
    assert caught.value.__cause__ is not None


def test_a_package_without_the_float_graph_says_so(tiny):
    tiny.manifest.files.pop("model.onnx")
    with pytest.raises(PackageError, match=r"without model\.onnx"):
        choice.choose(tiny)


def test_an_unknown_backend_is_refused(tiny):
    with pytest.raises(InputError, match="auto or onnxruntime or tensorrt"):
        choice.choose(tiny, "tensorflow")


def test_without_engines_auto_does_not_touch_tensorrt(tiny, monkeypatch):
    real = builtins.__import__

    def watched(name, *arguments, **options):
        assert "tensorrt" not in name
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", watched)
    assert choice.choose(tiny).name == "onnxruntime"


def test_auto_takes_the_engine_if_it_opens(with_engine):
    engine = FakeBackend(lambda images: (images, images))
    assert choice.choose(with_engine(engine)) is engine


@pytest.mark.parametrize("kind", [BackendUnavailable, EngineMismatch])
def test_auto_says_why_no_engine_was_chosen(with_engine, kind):
    package = with_engine(kind("no NVIDIA driver", expected="one", cure="install it"))
    backend = choice.choose(package)
    assert backend.name == "onnxruntime"
    assert "no NVIDIA driver" in backend.why
    with pytest.raises(kind):
        choice.choose(package, "tensorrt")


@pytest.mark.parametrize("kind", [BackendError, IntegrityError, PackageError])
def test_auto_hides_no_other_failure(with_engine, kind):
    with pytest.raises(kind, match="broke"):
        choice.choose(with_engine(kind("broke", expected="x", cure="y")))


def test_a_missing_precision_is_refused_with_a_cure(tiny):
    assert choice.choose(tiny, "onnxruntime", precision="fp32").precision == "fp32"
    with pytest.raises(PackageError, match=r"model\.int8\.cpu\.onnx(.|\n)*--precision"):
        choice.choose(tiny, "onnxruntime", precision="int8")
    with pytest.raises(InputError, match="precision 'fp16' with onnxruntime"):
        choice.choose(tiny, "onnxruntime", precision="fp16")


def test_the_fake_backend_checks_its_inputs():
    fake = FakeBackend(lambda images: (images.mean((1, 2)), images.mean(3)), max_batch=2)
    assert fake.run(RANDOM[:2])[0].shape == (2, 3)
    with pytest.raises(InputError, match="N from 1 to 2"):
        fake.run(RANDOM)
    fake.close()
    with pytest.raises(BackendError, match="closed"):
        fake.run(RANDOM[:2])
