"""The first opening of an engine on a device checks that its outputs are finite."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from runtime import Embedder, Explainer
from runtime.backends import cuda
from runtime.backends.tensorrt.backend import TensorRTBackend
from runtime.errors import BackendError, PackageError
from runtime.package.folder import REFERENCE, Package
from tests.runtime.fake_tensorrt import EMBEDDING, OVERFLOWS, fake_tensorrt


@pytest.fixture
def asked(monkeypatch):
    """The batches that backends run."""
    given: list[np.ndarray] = []
    start = TensorRTBackend._start
    monkeypatch.setattr(TensorRTBackend, "_start", lambda self, *x: given.append(x[0]) or start(self, *x))
    return given


@pytest.fixture
def referenced(toy):
    """The toy with three reference images; for the last one, white, the plan `OVERFLOWS` gives NaN."""
    images = np.arange(3 * 72, dtype=np.uint8).reshape(3, 4, 6, 3)
    images[2] = 255
    embedding, mask = images.mean((1, 2)), images[..., 0] / 255
    np.savez(toy.path / REFERENCE, images=images, embedding=embedding, mask=mask)
    toy.manifest.files[REFERENCE] = "0"
    return toy


def remembered(package: Package) -> list[Path]:
    return sorted(package.cache().glob("finite/*"))


@pytest.mark.parametrize(
    ("opener", "changes"),
    [(Explainer, {}), (Embedder, {}), (Embedder, {"plan": EMBEDDING, "outputs": ("embedding",)})],
)
def test_the_check_runs_once(referenced, add, gpu, asked, opener, changes):
    add(referenced, "toy", **changes)
    for _ in range(2):
        with opener(referenced, backend="tensorrt") as opened:
            assert "checked" not in opened.backend.why
        assert [images.shape for images in asked] == [(1, 4, 6, 3)] * 3
        (file,) = remembered(referenced)
    assert file.read_text() == "toy.engine on Fake GPU with tensorrt 10.3.0.30: 3 images\n"


def test_another_driver_or_version_repeats_the_check(referenced, add, gpu, asked, monkeypatch):
    add(referenced, "toy")
    Explainer(referenced, backend="tensorrt").close()
    newer = cuda.DriverInfo(cuda="13.9", devices=1)
    monkeypatch.setattr(cuda, "driver", lambda: newer)
    Explainer(referenced, backend="tensorrt").close()
    assert (len(asked), len(remembered(referenced))) == (6, 2)
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt(gpu, version="10.4.0"))
    add(referenced, "newer", version="10.4.0")
    Explainer(referenced, backend="tensorrt").close()
    assert len(asked) == 9


@pytest.mark.parametrize("backend", ["tensorrt", "auto"])
@pytest.mark.parametrize("opener", [Explainer, Embedder])
def test_an_engine_that_overflows_never_opens(referenced, add, gpu, opener, backend):
    add(referenced, "toy", plan=OVERFLOWS)
    words = (
        r"toy\.engine \(fp16\) on Fake GPU: the mask \(24 of 24 values\) of reference image 2 is not finite"
        rf"(.|\n)*--package {referenced.path} --precision bf16(.|\n)*backend='onnxruntime'"
    )
    for _ in range(2):
        with pytest.raises(BackendError, match=words):
            opener(referenced, backend=backend)
        assert remembered(referenced) == []
        assert not gpu.live()


def test_an_unwritable_result_is_reported(referenced, add, gpu):
    add(referenced, "toy")
    referenced.cache().parent.mkdir(parents=True)
    referenced.cache().write_text("a file where the folder should be")
    with Explainer(referenced, backend="tensorrt") as explainer:
        assert "its outputs are finite, and will be checked again: " in explainer.backend.why


def test_an_unreadable_reference_closes_the_backend(referenced, add, gpu):
    add(referenced, "toy")
    (referenced.path / REFERENCE).write_bytes(b"no archive")
    with pytest.raises(PackageError, match="cannot be read"):
        Explainer(referenced, backend="tensorrt")
    assert not gpu.live()


def test_rtx_checks_its_largest_batch_too(referenced, add, rtx, asked):
    add(referenced, "toy", **rtx)
    Explainer(referenced, backend="tensorrt").close()
    assert [len(batch) for batch in asked[:3]] == [1, 1, 1]
    assert len(asked[3]) > 1
    np.testing.assert_array_equal(asked[3][:3], np.concatenate(asked[:3]))
