"""Engines are built for real: TensorRT-RTX compiles on a machine without a GPU."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from export.engine import builder
from export.engine.monitor import Progress
from runtime.backends.tensorrt import library
from runtime.errors import BackendUnavailable, ExportError, InputError
from tests.export.built_engine import rtx, rtx_engine


class Toy(nn.Module):
    """Two outputs on shared features, like the fused graph, in `dtype` between uint8 and float32."""

    def __init__(self, dtype: torch.dtype, *, wide: bool = False, late_cast: bool = False) -> None:
        super().__init__()
        self.dtype, self.late_cast = dtype, late_cast
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, dtype=dtype)
        self.body = nn.Conv2d(8, 16, 3, stride=2, padding=1, dtype=torch.float32 if wide else dtype)
        self.head = nn.Linear(16, 10, dtype=dtype)
        self.mask = nn.Conv2d(16, 1, 3, padding=1, dtype=dtype)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        x = image if self.late_cast else image.to(self.dtype)  # TensorRT has no transposition of uint8
        x = x.permute(0, 3, 1, 2).to(self.dtype)
        x = self.stem((x - 118) / 58).relu()
        x = self.body(x.to(self.body.weight.dtype)).relu().to(self.dtype)
        embedding = self.head(x.float().mean((2, 3)).to(self.dtype)).float()
        mask = nn.functional.interpolate(self.mask(x), scale_factor=4, mode="bilinear")
        return embedding, mask[:, 0].float().sigmoid()


def export(module: nn.Module, path: Path, *, embedding: str = "embedding", free: bool = True) -> Path:
    """Export with weights in a file beside the graph, and with a free batch axis or one of 2."""
    program = torch.onnx.export(
        module.eval(),
        (torch.zeros(2, 32, 32, 3, dtype=torch.uint8),),
        dynamo=True,
        opset_version=20,
        input_names=["image"],
        output_names=[embedding, "mask"],
        dynamic_shapes=({0: torch.export.Dim("N")},) if free else None,
        verbose=False,
    )
    program.save(path, external_data=True)
    return path


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("graphs")
    half, full = torch.float16, torch.float32
    toys = {"mixed": Toy(half, wide=True), "late_cast": Toy(half, late_cast=True)}
    toys |= {"fp16": Toy(half), "fp32": Toy(full)}
    graphs = {name: export(toy, folder / f"{name}.onnx") for name, toy in toys.items()}
    graphs["renamed"] = export(Toy(full), folder / "renamed.onnx", embedding="features")
    return graphs


@rtx
@pytest.mark.parametrize(("precision", "dtype"), [("fp16", "HALF"), ("fp32", "FLOAT")])
def test_an_engine_is_built_and_described(graphs, precision, dtype, capsys) -> None:
    built = rtx_engine(graphs[precision], precision, batch=(1, 2, 8), progress=True)
    out, err = capsys.readouterr()
    assert not out
    assert "100%" in err
    assert (built.flavour, built.compute_capability, built.precision) == ("rtx", "portable", precision)
    assert built.version == library.library("rtx").__version__
    assert built.inputs == {"image": ("UINT8", (-1, 32, 32, 3))}
    assert built.outputs == {"embedding": ("FLOAT", (-1, 10)), "mask": ("FLOAT", (-1, 32, 32))}
    assert built.flags["weighted_layers"] == {dtype: 4}
    assert built.flags["tf32"] is False
    assert built.flags["require_user_allocation"] is True
    assert built.tensor_types["UINT8"] == 1
    assert (built.tensor_types.get("HALF", 0) > 10) is (precision == "fp16")
    assert built.batch == (1, 2, 8)
    assert built.build_seconds > 0
    assert len(built.plan) > 100_000, "the graph alone is a tenth of this: external weights were found"


@rtx
def test_validity_tells_a_plan_from_a_corrupt_copy(graphs: dict[str, Path]) -> None:
    plan = rtx_engine(graphs["fp16"], "fp16").plan
    assert "MALFORMED_ENGINE" not in library.validity(plan).reasons
    for corrupt in (bytes([plan[0] ^ 1]) + plan[1:], plan[:40], b""):
        judged = library.validity(corrupt)
        assert (judged.answer, judged.reasons) == ("INVALID", ("MALFORMED_ENGINE",))
        assert "corrupt" in judged.meaning


@pytest.mark.parametrize(
    ("answer", "reasons", "words"),
    [
        ("VALID", (), "valid on this machine"),
        ("INVALID", (), "no usable driver"),
        ("INVALID", ("UNSUPPORTED_CC",), "cannot run here: TensorRT-RTX, or this plan of it, does not"),
        ("SUBOPTIMAL", ("OLD_CUDA_DRIVER",), "runs here, but not at its best: the NVIDIA driver is too old"),
        ("INVALID", ("SOMETHING_NEW",), "cannot run here: SOMETHING_NEW"),
    ],
)
def test_validity_in_words(answer: str, reasons: tuple[str, ...], words: str) -> None:
    assert library._meaning(answer, reasons).startswith(words)


@rtx
@pytest.mark.parametrize(
    ("graph", "precision", "named"),
    [
        ("fp32", "fp16", ["no layer with weights", "node_conv2d: CONVOLUTION in FLOAT", "model.fp16.onnx"]),
        ("fp16", "fp32", ["no layer with weights", "node_conv2d: CONVOLUTION in HALF"]),
        ("mixed", "fp16", ["1 convolution(s) are not", "node_conv2d_1: CONVOLUTION in FLOAT"]),
        (
            "late_cast",
            "fp16",
            ["parser refuses", "node_permute (Transpose)", "UInt8", "cast before transposing"],
        ),
        ("renamed", "fp32", ["'features': 'FLOAT'", "'embedding': 'FLOAT'"]),
    ],
)
def test_graph_of_another_kind_is_refused(graphs, graph, precision, named) -> None:
    with pytest.raises(ExportError) as refused:
        rtx_engine(graphs[graph], precision)
    for text in named:
        assert text in str(refused.value)


@rtx
def test_engine_is_rebuilt_without_required_user_allocation(graphs, monkeypatch) -> None:
    trt, compiled, asked = library.library("rtx"), builder._compile, []

    def refuse(opened, network, config, **options):
        asked.append(config.get_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION))
        return None if asked[-1] else compiled(opened, network, config, **options)

    monkeypatch.setattr(builder, "_compile", refuse)
    built = rtx_engine(graphs["fp16"], "fp16")
    assert asked == [True, False]
    assert built.flags["require_user_allocation"] is False


@rtx
def test_a_build_that_fails_shows_the_log(graphs: dict[str, Path]) -> None:
    with pytest.raises(ExportError, match=r"could not build the engine:\n    ERROR: .*workspace"):
        rtx_engine(graphs["fp32"], "fp32", workspace_bytes=1)


@rtx
def test_a_fixed_batch_axis_takes_that_batch_only(tmp_path: Path) -> None:
    path = export(Toy(torch.float32), tmp_path / "fixed.onnx", free=False)
    assert rtx_engine(path, "fp32", batch=(2, 2, 2)).inputs["image"][1][0] == 2
    with pytest.raises(ExportError, match="batch was to be 1:1:8"):
        rtx_engine(path, "fp32")


@rtx
def test_ctrl_c_stops_the_build(graphs: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []

    def interrupted_step(self: Progress, name: str, *, real=Progress.step) -> bool:
        steps.append(name)
        if len(steps) == 3:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            assert self._cancelled.wait(10), "the main thread has not taken the signal"
        return real(self, name)

    monkeypatch.setattr(Progress, "step", interrupted_step)
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        rtx_engine(graphs["fp16"], "fp16")
    assert signal.getsignal(signal.SIGINT) is handler
    assert len(steps) == 3
    assert "BuildCanceled" in library.logger(library.library("rtx")).text()


def test_progress_counts_nested_phases() -> None:
    with Progress(show=False, cancelled=threading.Event()) as bar:
        bar.start("build", None, 4)
        assert bar.step("build")
        bar.start("optimise", "build", 2)
        bar.start("time tactics", "optimise", 10)
        for _ in range(5):
            bar.step("time tactics")
        assert bar.percent == pytest.approx(100 * (1 + (0 + 0.5) / 2) / 4)
        bar.finish("time tactics")
        bar.step("unknown phase")
        bar.finish("optimise")
        assert bar.percent == pytest.approx(31.25), "it went back"
        bar.finish("build")
        assert bar.percent == 100


def test_an_unknown_flavour_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="flavour 'tensorflow'"):
        builder.build(tmp_path / "x.onnx", flavour="tensorflow", batch=(1, 1, 1), precision="fp32")


def test_a_missing_library_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for flavour, module, cure in (
        ("rtx", "tensorrt_rtx", "pip install .tensorrt-rtx"),
        ("tensorrt", "tensorrt", "system-site-packages"),
    ):
        for name in (module, f"{module}_bindings"):
            monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(BackendUnavailable, match=cure):
            builder.build(tmp_path / "x.onnx", flavour=flavour, batch=(1, 1, 1), precision="fp32")
