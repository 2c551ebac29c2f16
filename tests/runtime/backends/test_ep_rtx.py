"""TensorRT-RTX through onnxruntime: over its own CPU provider, and NVIDIA's wheel without a card."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import types
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from benchmarks.gpu import parity as gpu_parity
from runtime.backends import choice, ep_rtx
from runtime.backends.ep_rtx import MODULE, RtxProviderBackend
from runtime.errors import BackendUnavailable, EngineMismatch, InputError, ParityError
from runtime.explainer import Explainer
from runtime.package.folder import Package
from tests.runtime.conftest import write_package
from tests.toward_graph import add_targets, strength

RANDOM = np.random.default_rng(1).integers(0, 256, (3, 24, 32, 3), dtype=np.uint8)
COMPILER = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
FALLBACK = "session.disable_cpu_ep_fallback"

wheel = pytest.mark.skipif(not find_spec(MODULE), reason=f"{MODULE} is not installed")
no_driver = pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="there is a driver here")


class Options(onnxruntime.SessionOptions):
    """Notes what it is given; the CPU provider, which stands in, takes none of it."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: dict[str, str] = {}
        self.given: dict[str, str] = {}

    def add_session_config_entry(self, key: str, value: str) -> None:
        self.entries[key] = value
        if key != FALLBACK:  # the CPU is all there is here
            super().add_session_config_entry(key, value)

    def add_provider_for_devices(self, devices: list, options: dict[str, str]) -> None:
        self.given = options
        super().add_provider_for_devices(devices, {})


@pytest.fixture
def card(monkeypatch, tmp_path):
    """onnxruntime, whose CPU provider goes by the name of NVIDIA's; all options it was given, by session."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made: list[Options] = []

    def options() -> Options:
        made.append(Options())
        return made[-1]

    module = types.SimpleNamespace(**vars(onnxruntime))
    module.SessionOptions = options
    stand_in = types.SimpleNamespace(get_ep_name=lambda: "CPUExecutionProvider", __version__="0")
    monkeypatch.setattr(ep_rtx, "installed", lambda name: True)
    monkeypatch.setattr(ep_rtx, "ort", lambda: module)
    monkeypatch.setattr(ep_rtx, "provider", lambda: stand_in)
    return made


def test_the_graph_runs_without_cpu_fallback(tiny, card, outputs):
    with Explainer(tiny, backend="ep-rtx") as explainer:
        assert explainer.backend.name == "ep-rtx"
        embedding, mask = explainer.backend.run(RANDOM)
        assert explainer.embedding_id.endswith("-fp32")
    for ours, expected in zip((embedding, mask), outputs(RANDOM), strict=True):
        assert np.allclose(ours, expected, atol=1e-6)
    assert card[0].entries[FALLBACK] == "1"


def test_options_have_a_batch_profile_and_cache(tiny, card, tmp_path):
    backend = RtxProviderBackend(tiny)
    given, name = card[0].given, tiny.manifest.input.name
    assert given["nv_profile_min_shapes"] == given["nv_profile_opt_shapes"] == f"{name}:1x24x32x3"
    assert given["nv_profile_max_shapes"] == f"{name}:{backend.max_batch}x24x32x3"
    assert Path(given["nv_runtime_cache_path"]).is_relative_to(tmp_path / "cache")
    assert Path(given["nv_runtime_cache_path"]).is_dir()


def test_wrong_outputs_are_refused_at_opening(card, tmp_path):
    package = Package.open(write_package(tmp_path / "off.nemu", error=0.3))
    for opens in (choice.choose, choice.choose_embedding):
        with pytest.raises(ParityError, match="ep-rtx"):
            opens(package, "ep-rtx")
    backend = choice.choose(package)
    assert backend.name == "onnxruntime"
    assert "ep-rtx (fp32): embedding error" in backend.why


def test_embedding_only_runs_the_smaller_graph(card, tmp_path, outputs):
    package = Package.open(write_package(tmp_path / "alone.nemu", embedding_only=True))
    whole = choice.choose(package, "ep-rtx")
    alone = choice.embedding_only_backend(package, whole)
    assert (alone.name, alone.outputs) == ("ep-rtx", ("embedding",))
    assert np.allclose(alone.embed(RANDOM), outputs(RANDOM)[0], atol=1e-6)


def test_targets_run_on_the_same_card(tiny, card, outputs):
    package = add_targets(tiny.path)
    whole = choice.choose(package, "ep-rtx")
    asked = choice.toward_backend(package, whole)
    toward = np.float32([[-3, -2, 0.5]] * len(RANDOM))
    assert (asked.name, asked.precision) == ("ep-rtx", whole.precision)
    assert card[-1].given["nv_profile_max_shapes"].endswith(f",toward:{asked.max_batch}x3")
    mask = asked.run_toward(RANDOM, toward)[1]
    assert np.allclose(mask, outputs(RANDOM)[1] * strength(toward)[:, None, None], atol=1e-6)


def test_fp16_is_the_default_where_available(package, card):
    assert RtxProviderBackend(Package.open(package)).precision == "fp16"


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"precision": "int4"}, InputError, "int4"),
        ({"device": -1}, BackendUnavailable, "device -1"),
        ({"device": 1}, BackendUnavailable, "device 1"),
    ],
)
def test_what_is_not_there_is_refused(tiny, card, options, error, words):
    with pytest.raises(error, match=words):
        choice.choose(tiny, "ep-rtx", **options)


def test_a_graph_the_provider_refuses_raises(tiny, card, monkeypatch):
    def refuse(*arguments, **options):
        raise RuntimeError("no such operator\nmore")

    monkeypatch.setattr(ep_rtx.ort(), "InferenceSession", refuse)
    with pytest.raises(EngineMismatch, match="no such operator") as refused:
        choice.choose(tiny, "ep-rtx")
    assert "more" not in str(refused.value)
    backend = choice.choose(tiny)
    assert backend.name == "onnxruntime"
    assert "no such operator" in backend.why


def test_onnxruntimes_own_fallback_is_off(tiny, card, monkeypatch):
    """It prints, and hides the error behind one of its own."""
    asked, session = [], onnxruntime.InferenceSession
    monkeypatch.setattr(ep_rtx.ort(), "InferenceSession", lambda *a, **k: asked.append(k) or session(*a, **k))
    assert RtxProviderBackend(tiny)._session._enable_fallback is False
    assert asked[0]["enable_fallback"] == 0


def test_an_unwritable_cache_is_reported(tiny, card, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    backend = RtxProviderBackend(tiny)
    assert "nv_runtime_cache_path" not in card[0].given
    assert "kernels are not kept" in backend.why


def test_auto_skips_it_without_a_graph(tiny, card):
    assert not ep_rtx.runs(tiny, "int8")
    assert ep_rtx.runs(tiny, "fp32")
    assert ep_rtx.runs(tiny, None)


def test_auto_chooses_the_card_or_says_why_not(tiny, card, monkeypatch):
    backend = choice.choose(tiny)
    assert backend.name == "ep-rtx"
    assert backend.why.startswith("the package holds no engine; ")
    monkeypatch.setattr(ep_rtx.ort(), "get_ep_devices", list)
    backend = choice.choose(tiny)
    assert backend.name == "onnxruntime"
    assert "lists no card" in backend.why


def test_gpu_check_opens_it_twice_and_measures_it(tiny, card, tmp_path):
    package, out = add_targets(tiny.path), tmp_path / "parity.json"
    assert gpu_parity.main([str(out), "--package", str(package.path), "--flavour", "ep-rtx"]) == 0
    (found,) = json.loads(out.read_text())["provider"]
    assert found["precision"] == "fp32"
    assert found["first_opening_seconds"] > 0 < found["second_opening_seconds"]
    assert found["parity"]["embedding_error"] < 1e-4 > found["parity_toward"]["embedding_error"]
    assert {row["batch"] for row in found["rows"]} >= {1, 8}


@no_driver
def test_gpu_check_says_why_it_cannot_be_opened(tiny, afresh, tmp_path):
    out = tmp_path / "parity.json"
    assert gpu_parity.main([str(out), "--package", str(tiny.path), "--flavour", "ep-rtx"]) == 0
    (skipped,) = json.loads(out.read_text())["skipped"]
    assert skipped["what"] == "ep-rtx"
    assert "driver" in skipped["why"] or MODULE in skipped["why"]


@pytest.fixture
def afresh():
    """The provider's module is looked for again, now and after the test."""
    ep_rtx._provider.cache_clear()
    yield
    ep_rtx._provider.cache_clear()


def test_without_the_wheel_the_error_names_the_command(tiny, afresh, monkeypatch):
    monkeypatch.setattr(ep_rtx, "installed", lambda name: False)
    with pytest.raises(BackendUnavailable, match="pip install onnxruntime-ep-nv-tensorrt-rtx"):
        choice.choose(tiny, "ep-rtx")


def test_an_older_onnxruntime_is_told_to_upgrade(tiny, afresh, monkeypatch):
    old = types.SimpleNamespace(__version__="1.18.0")
    monkeypatch.setattr(ep_rtx, "installed", lambda name: True)
    monkeypatch.setattr(ep_rtx.ctypes, "CDLL", lambda name: None)
    monkeypatch.setattr(ep_rtx, "ort", lambda: old)
    with pytest.raises(BackendUnavailable, match=r"1\.18\.0.*(\n.*)*onnxruntime>=1\.24"):
        choice.choose(tiny, "ep-rtx")


@wheel
@no_driver
def test_the_wheel_without_a_driver_is_refused(tiny, afresh):
    with pytest.raises(BackendUnavailable, match="there is no NVIDIA driver") as refused:
        choice.choose(tiny, "ep-rtx")
    assert "backend='onnxruntime'" in str(refused.value)


@wheel
@no_driver
def test_registering_the_wheel_itself_needs_the_driver():
    """Which is why the driver is looked for first.  If this fails, ours need not be."""
    script = f"import onnxruntime, {MODULE} as p\n"
    script += "onnxruntime.register_execution_provider_library(p.get_ep_name(), p.get_library_path())"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode != 0
    assert "libcuda.so.1" in ran.stderr


@wheel
@no_driver
@pytest.mark.skipif(COMPILER is None, reason="there is no C compiler")
def test_the_wheel_registers_with_a_fake_driver(package_path, tmp_path):
    """A driver without devices: each of its functions that the provider names answers "no device"."""
    folder = Path(find_spec(MODULE).origin).parent
    named = (folder / "libonnxruntime_providers_nv_tensorrt_rtx.so").read_bytes()
    for library, prefix in (("libcuda.so.1", "cu[A-Z]"), ("libnvidia-ml.so.1", "nvml[A-Z]")):
        names = sorted({name.decode() for name in re.findall(rf"\0({prefix}\w+)(?=\0)".encode(), named)})
        said = {name: '(long)"no device"' if "ErrorString" in name else "100" for name in names}
        functions = [f"long {name}(void) {{ return {answer}; }}" for name, answer in said.items()]
        source = tmp_path / f"{library}.c"
        source.write_text("\n".join(functions))
        subprocess.run([COMPILER, "-shared", "-fPIC", "-o", tmp_path / library, source], check=True)
    command = [sys.executable, "-m", "runtime", "verify", package_path, "--backend", "ep-rtx"]
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    ran = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode != 0
    assert "lists no card" in ran.stderr
    assert "8.6, 8.9, 12.0 or newer" in ran.stderr
