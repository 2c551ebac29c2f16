"""Engines and graphs that take a target: which one is chosen, and the outputs for each target."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from export.package import attach
from runtime import Embedder, Explainer
from runtime.__main__ import main
from runtime.backends import cuda
from runtime.backends.base import Backend, check_targets
from runtime.backends.choice import (
    choose,
    choose_embedding,
    embedding_only_backend,
    takes_targets,
    toward_backend,
)
from runtime.backends.fake import FakeBackend
from runtime.backends.onnxruntime import OnnxRuntimeBackend
from runtime.backends.tensorrt import selection
from runtime.backends.tensorrt.backend import TensorRTBackend
from runtime.cli import checks
from runtime.errors import BackendError, EngineMismatch, InputError, PackageError, ParityError
from runtime.package.folder import REFERENCE, Package
from runtime.package.manifest import EngineRecord
from runtime.package.reference import load_reference
from runtime.verify import verify_toward
from tests.runtime.engine_outputs import check_outputs, random_images
from tests.runtime.fake_cuda import FakeDriver
from tests.runtime.fake_tensorrt import fake_tensorrt
from tests.toward_graph import add_targets, reseal, strength

BOTH = ("image", "toward")


@pytest.fixture(scope="module")
def shared_package(_tiny, tmp_path_factory):
    return add_targets(Path(shutil.copytree(_tiny, tmp_path_factory.mktemp("targets") / "tiny.nemu")))


@pytest.fixture
def targeted(shared_package, tmp_path):
    """The tiny package with a graph that takes a target, and targets in its reference."""
    return Package.open(shutil.copytree(shared_package.path, tmp_path / "targeted.nemu"))


@pytest.fixture
def backend(open_toy):
    return open_toy("toy-toward", inputs=BOTH)


def targets(n: int, seed: int = 0) -> np.ndarray:
    """Different rows; the second one is zero, which means the image itself."""
    rows = np.random.default_rng((n, seed, 1)).uniform(0.1, 1, (n, 3)).astype(np.float32)
    rows[1:2] = 0
    return rows


def ask(backend: Backend, n: int, seed: int = 0) -> None:
    """Run n images with targets, and check the outputs."""
    images, toward = random_images(n), targets(n, seed)
    check_outputs(images, backend.run_toward(images, toward), toward)


# The graph, by onnxruntime.


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 8), seed=st.integers(0, 99))
def test_a_target_changes_the_mask_only(shared_package, n, seed):
    images = np.random.default_rng(seed).integers(0, 256, (n, 24, 32, 3), np.uint8)
    toward = targets(n, seed)
    with closing(choose(shared_package)) as plain, closing(toward_backend(shared_package, plain)) as asks:
        embedding, mask = plain.run(images)
        same, asked = asks.run_toward(images, toward)
    np.testing.assert_allclose(same, embedding, rtol=1e-6)
    np.testing.assert_allclose(asked, mask * strength(toward)[:, None, None], rtol=1e-5, atol=1e-7)
    assert (n < 2) or np.allclose(asked[1], mask[1])
    assert not np.allclose(asked[0], mask[0])


@pytest.mark.parametrize(
    ("toward", "words"),
    [
        (np.zeros((2, 3)), r"float64 \(2, 3\)"),
        (np.zeros((1, 3), np.float32), r"float32 \(1, 3\)"),
        (np.zeros((2, 4), np.float32), r"float32 \(2, 4\)"),
        (np.float32([[0, 0, np.nan], [0, 0, 0]]), "values that are not finite"),
        ([[0.0, 0.0, 0.0]] * 2, "list"),
    ],
)
def test_wrong_targets_are_refused(targeted, toward, words):
    with closing(OnnxRuntimeBackend(targeted, toward=True)) as backend:
        for take in (
            lambda: check_targets(toward, n=2, dimension=3),
            lambda: backend.run_toward(np.zeros((2, 24, 32, 3), np.uint8), toward),
        ):
            with pytest.raises(InputError, match=rf"toward: (.|\n)*{words}") as refused:
                take()
            assert "float32 (2, 3)" in refused.value.expected


def test_targets_of_any_strides_are_accepted():
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    taken = check_targets(rows.T[:, ::-1], n=4, dimension=3)
    assert taken.flags.c_contiguous
    np.testing.assert_array_equal(taken, rows.T[:, ::-1])


def test_each_graph_runs_what_it_was_made_for(targeted):
    image, toward = np.zeros((1, 24, 32, 3), np.uint8), np.zeros((1, 3), np.float32)
    plain, asks = choose(targeted), OnnxRuntimeBackend(targeted, toward=True)
    for call in (asks.run, asks.embed):
        with pytest.raises(BackendError, match="no target was given to model.toward.onnx"):
            call(image)
    with pytest.raises(BackendError, match="a target was given to model.onnx, which takes none"):
        plain.run_toward(image, toward)
    asks.close()
    with pytest.raises(BackendError, match="closed"):
        asks.run_toward(image, toward)


# Which one is opened.


def test_a_package_without_targets_names_the_cure(tiny):
    assert not takes_targets(tiny)
    with pytest.raises(InputError, match="takes none") as refused:
        toward_backend(tiny, choose(tiny))
    assert "nemu train --toward" in refused.value.cure


def test_library_and_precision_match_the_plain_backend(targeted, add, gpu):
    add(targeted, "a-fp32", precision="fp32", inputs=BOTH)
    add(targeted, "b-fp16", inputs=BOTH)
    add(targeted, "c-bf16", precision="bf16")
    with closing(OnnxRuntimeBackend(targeted)) as cpu, closing(toward_backend(targeted, cpu)) as asks:
        assert (asks.name, asks.precision) == ("onnxruntime", "fp32")
        assert asks.why.startswith("it takes a target")
    with closing(selection.open_backend(targeted)) as engine:
        assert engine.precision == "bf16"
        with pytest.raises(EngineMismatch, match=r"b-fp16\.engine: it is fp16, not bf16") as refused:
            toward_backend(targeted, engine)
        assert refused.value.came.count("it takes no target") == 1
        assert f"--package {targeted.path} --toward --precision bf16" in refused.value.cure


def test_the_gpu_matches_the_plain_backend(toy, add, gpu, monkeypatch):
    """Also if the caller names another device."""
    toy.manifest.files["model.toward.onnx"] = "0"
    add(toy, "plain")
    add(toy, "embedding", outputs=("embedding",))
    asked: list[int] = []
    with closing(choose(toy)) as plain:
        assert plain.device == 0
        with monkeypatch.context() as patch:
            patch.setattr(plain, "device", 1)
            patch.setattr(selection, "open_backend", lambda *_, device, **__: asked.append(device))
            patch.setattr(selection, "open_engine", lambda *_, device, **__: asked.append(device) or plain)
            patch.setattr(cuda, "device", lambda n: asked.append(n) or plain._gpu)
            toward_backend(toy, plain, 0)
            embedding_only_backend(toy, plain, 0)
    assert asked == [1, 1, 1]


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_an_engine_in_the_same_precision(toy, add, gpu, precision):
    toy.manifest.files["model.toward.onnx"] = "0"
    for one in ("fp16", "fp32"):
        add(toy, f"plain-{one}", precision=one)
        add(toy, f"asks-{one}", precision=one, inputs=BOTH)
    with closing(choose(toy, precision=precision)) as plain, closing(toward_backend(toy, plain)) as asks:
        assert plain.why.startswith(f"plain-{precision}.engine")
        assert asks.why.startswith(f"asks-{precision}.engine")
        assert asks.precision == precision
        ask(asks, 3)
    assert not gpu.live()


def test_int8_and_custom_backends_have_no_targets(targeted):
    other = FakeBackend(lambda images: (images, images))
    with pytest.raises(EngineMismatch, match="backend fake"):
        toward_backend(targeted, other)
    other.precision = "int8"
    with pytest.raises(EngineMismatch, match="in int8") as refused:
        toward_backend(targeted, other)
    assert "precision='fp32'" in refused.value.cure


@pytest.mark.parametrize("flavour", ["tensorrt", "rtx"])
def test_plain_calls_never_choose_target_engines(toy, add, gpu, monkeypatch, flavour):
    """Its name comes first and its precision is preferred, and still it is not chosen."""
    version = "10.3.0.30"
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake_tensorrt(gpu, rtx=True))
    add(toy, "a-toward", inputs=BOTH, flavour=flavour, version=version)
    for opens in (choose, choose_embedding):
        with pytest.raises(EngineMismatch, match=r"a-toward\.engine: it takes a target"):
            opens(toy, "tensorrt")
    add(toy, "b-plain", precision="fp32", flavour=flavour, version=version)
    for opens in (Explainer, Embedder):
        with opens(toy) as one:
            assert one.backend.why.startswith("b-plain.engine")
    assert not gpu.live()


def test_auto_uses_the_cpu_without_plain_engines(targeted, add, gpu):
    add(targeted, "a-toward", inputs=BOTH)
    for opens in (choose, choose_embedding):
        chosen = opens(targeted)
        assert chosen.name == "onnxruntime"
        assert "it takes a target, and a plain call has none" in chosen.why


def test_sidecars_name_inputs_only_with_targets(toy, add):
    add(toy, "toy")
    add(toy, "toy-toward", inputs=BOTH)
    asks, plain = (engine.record for engine in toy.engines())
    assert (asks.takes_target, plain.takes_target) == (True, False)
    assert not {"inputs", "outputs"} & json.loads(plain.to_json()).keys()
    assert json.loads(asks.to_json())["inputs"] == list(BOTH)
    for record in (asks, plain):
        assert EngineRecord.from_json(record.to_json(), source="sidecar") == record


def test_plans_must_have_the_sidecars_inputs(toy, add, gpu):
    add(toy, "toy-toward", inputs=("toward", "image"))  # the same, in another order
    selection.open_backend(toy, toward=True).close()
    add(toy, "wrong", outputs=("embedding",), inputs=BOTH)
    with pytest.raises(BackendError, match=r"wrong\.engine has the tensors"):
        selection.open_engine(toy, next(e for e in toy.engines() if e.path.stem == "wrong"))


# The engine, on the fake GPU.


def test_every_run_sees_its_own_target(backend, gpu):
    assert backend.why.startswith("toy-toward.engine fits Fake GPU (8.9)")
    assert backend.degraded == ""
    for n, launches in ((1, 1), (4, 2), (1, 1), (3, 0), (2, 0), (4, 1)):  # another lane's first is a check
        for seed in range(3):  # of the targets; the images are the same again
            before = gpu.launches
            ask(backend, n, seed)
            assert gpu.launches - before == (launches if seed == 0 else min(launches, 1))
    zeros = np.zeros((4, 3), np.float32)
    check_outputs(random_images(4), backend.run_toward(random_images(4), zeros), zeros)


def test_target_engines_refuse_plain_calls(backend, toy, add):
    for call in (backend.run, backend.embed, backend.submit, backend.run_device):
        with pytest.raises(BackendError, match=r"no target was given to toy-toward\.engine"):
            call(random_images(1))
    with pytest.raises(BackendError, match="no target was given"):
        backend.warm_up(on_device=True)
    add(toy, "plain")
    with closing(choose(toy)) as plain, pytest.raises(BackendError, match="which takes none") as refused:
        plain.run_toward(random_images(1), targets(1))
    assert "to plain.engine" in refused.value.came
    for images, toward in ((random_images(2), targets(1)), (random_images(5), targets(5))):
        with pytest.raises(InputError):
            backend.run_toward(images, toward)


def test_after_warm_up_runs_allocate_nothing(backend, gpu):
    backend.warm_up()
    assert backend._lanes.keys() == {"least", "between", "most"}
    before = set(gpu.blocks), set(gpu.graphs)
    for n in (1, 2, 3, 4):
        backend.poison()
        ask(backend, n)
    assert (set(gpu.blocks), set(gpu.graphs)) == before


def test_integrated_gpus_read_both_inputs_in_place(open_toy, gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "cuda.bindings.driver", FakeDriver(gpu, INTEGRATED=1))
    backend = open_toy(inputs=BOTH)
    (ops,) = gpu.graphs.values()
    assert len(ops) == 3, "computes, and copies two outputs"
    for seed in (0, 1):
        ask(backend, 1, seed)


def test_fewer_images_than_are_computed_at_once(open_toy, rtx, gpu):
    """TensorRT-RTX computes the largest batch; the rows after n have older images and targets."""
    backend = open_toy(inputs=BOTH, **rtx)
    for n in (4, 2, 3, 1):
        ask(backend, n)
    assert "records what it launches by itself instead" in backend.degraded
    assert gpu.compilations == 2


def test_the_first_opening_asks_with_targets(toy, add, gpu, monkeypatch):
    images = random_images(3)
    arrays = {"images": images, "embedding": images.mean((1, 2)).astype(np.float32), "mask": images[..., 0]}
    toy.manifest.files[REFERENCE] = "0"
    add(toy, "toy", inputs=BOTH)
    asked = []
    run = TensorRTBackend.run_toward
    monkeypatch.setattr(TensorRTBackend, "run_toward", lambda s, x, q: asked.append(q) or run(s, x, q))
    for more, expected in (({}, arrays["embedding"]), ({"toward": targets(3)}, targets(3))):
        np.savez(toy.path / REFERENCE, **arrays, **more)
        selection.open_backend(toy, toward=True).close()
        np.testing.assert_array_equal(np.concatenate(asked), expected)
        asked.clear()
        shutil.rmtree(toy.cache())


# Verification.


def test_a_package_with_targets_is_verified_with_them(targeted, capsys):
    with closing(OnnxRuntimeBackend(targeted, toward=True)) as backend:
        assert verify_toward(targeted, backend).mask_error < 1e-6
    assert main(["verify", str(targeted.path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["toward"]
    assert found["mask_error"] < 1e-6
    assert found["target_effect"] == pytest.approx(load_reference(targeted).target_effect())
    assert found["target_effect"] > 1e-2
    assert main(["verify", str(targeted.path)]) == 0
    assert "toward the reference targets:" in capsys.readouterr().out
    assert main(["bench", str(targeted.path), "--seconds", "0", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [r["batch"] for r in rows if r["what"] == "toward targets"] == [1, 8]


def test_verify_fails_if_targets_are_ignored(targeted, monkeypatch):
    with closing(OnnxRuntimeBackend(targeted, toward=True)) as backend:
        run = backend.run_toward
        monkeypatch.setattr(backend, "run_toward", lambda images, toward: run(images, 0 * toward))
        with pytest.raises(ParityError, match="mask error"):
            verify_toward(targeted, backend)


def test_a_reference_without_targets_verifies_none(targeted):
    with np.load(targeted.path / REFERENCE) as arrays:
        plain = {name: arrays[name] for name in ("images", "embedding", "mask")}
    np.savez(targeted.path / REFERENCE, **plain)
    reseal(targeted.path)
    package = Package.open(targeted.path)
    assert load_reference(package).arrays().keys() == plain.keys()
    with pytest.raises(PackageError, match="holds no targets"):
        verify_toward(package, OnnxRuntimeBackend(package, toward=True))


def test_new_engines_are_checked_with_targets(toy, add, gpu):
    """The gate of `export.package.attach`: figures for the sidecar, or an error."""
    images, toward = random_images(3), targets(3)
    mask = images[..., 0] / np.float32(255)
    asked = mask * np.where(toward.any(1), toward.mean(1), 1)[:, None, None]
    arrays = {"images": images, "embedding": images.mean((1, 2)).astype(np.float32), "mask": mask}
    toy.manifest.files[REFERENCE] = "0"
    add(toy, "toy", inputs=BOTH)
    (engine,) = toy.engines()
    np.savez(toy.path / REFERENCE, **arrays, toward=toward, toward_mask=asked)
    figures = attach._gate(toy, engine.read(), engine.record)
    assert max(figures.mask_error, figures.embedding_error) < 1e-6
    assert figures.target_effect == pytest.approx(np.abs(asked - mask).mean())
    np.savez(toy.path / REFERENCE, **arrays, toward=np.roll(toward, 1, axis=0), toward_mask=asked)
    with pytest.raises(ParityError, match="tensorrt fp16 engine for targets: .*mask error"):
        attach._gate(toy, engine.read(), engine.record)
    np.savez(toy.path / REFERENCE, **arrays)
    with pytest.raises(PackageError, match="holds no targets"):
        attach._gate(toy, engine.read(), engine.record)
    assert not gpu.live()


def test_verify_says_why_no_engine_takes_targets(targeted, add, gpu):
    add(targeted, "toy")
    with (
        closing(selection.open_engine(targeted, targeted.engines()[0])) as plain,
        checks._for_targets(targeted, plain, 0) as (asks, why),
    ):
        assert asks is None
    assert "toy.engine: it takes no target" in why
    assert "--toward --precision fp16" in why


def test_info_says_which_engine_takes_a_target(tiny, add, capsys):
    add(tiny, "a-toward", inputs=BOTH)
    add(tiny, "b-whole")
    assert main(["info", str(tiny.path)]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("engine")]
    assert ["takes a target" in line for line in lines] == [True, False]
