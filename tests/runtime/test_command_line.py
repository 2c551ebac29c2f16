"""python -m runtime explain | compare | info | doctor | verify, and the nemu command in front of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nemu
from runtime import doctor
from runtime.__main__ import main
from runtime.explain import plan

ROOT = Path(__file__).parents[2]


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two folders, equal names, and files that are no pictures."""
    folder = tmp_path / "photos"
    for i, name in enumerate(["a.png", "a.jpg", "b.png", "sub/a.png"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        colour = np.random.default_rng(i).integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)
        Image.fromarray(colour).save(folder / name)
    (folder / "note.txt").write_text("hello")
    return folder


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def names(jobs, out: Path) -> list[str]:
    return sorted((job.folder / job.name).relative_to(out).as_posix() for job in jobs)


def test_explain_a_folder(package_path, photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["explain", str(package_path), str(photos), "--out", str(out)]) == 0
    expected = ["a.jpg", "a.png", "b", "sub/a"]
    kinds = [".json", ".mask.npy", ".overlay.png"]
    assert files(out) == sorted(name + kind for name in expected for kind in kinds)
    assert np.load(out / "sub/a.mask.npy").shape == (23, 30)
    printed = capsys.readouterr()
    assert "4 explained, 0 skipped" in printed.out
    assert printed.out.splitlines()[-1].startswith("next: ")
    assert "[4/4]" in printed.err


def test_names_do_not_collide(photos, tmp_path):
    out = tmp_path / "out"
    assert names(plan([photos / "b.png"], out), out) == ["b"]
    assert names(plan([photos / "b.png", photos / "b.png", photos / "sub/../b.png"], out), out) == ["b"]
    assert names(plan([photos / "a.png", photos / "sub/a.png"], out), out) == ["a.png", "sub/a.png"]
    assert names(plan([photos, photos / "sub"], out), out) == ["a.jpg", "a.png", "b", "sub/a"]


def test_explain_with_fidelity(package_path, photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["explain", str(package_path), str(photos / "b.png"), "--out", str(out), "--fidelity"]) == 0
    fidelity = json.loads((out / "b.json").read_text())["fidelity"]
    assert f"fidelity {fidelity:.3f}" in capsys.readouterr().err


def test_compare(package_path, photos, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["compare", str(package_path), str(photos / "a.png"), str(photos / "b.png"), "--out", str(out)]
    assert main([*command, "--json"]) == 0
    assert files(out) == ["a-b.compare.json", "a-b.compare.png"]
    printed = json.loads(capsys.readouterr().out)
    written = json.loads((out / "a-b.compare.json").read_text())
    assert {k: printed[k] for k in written} == written
    assert main(command) == 1
    assert "--force" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0
    said = capsys.readouterr().out
    assert f"similarity {written['similarity']:.3f}; of what the masks keep" in said
    assert said.splitlines()[-1].startswith("next: ")


def test_a_second_run_refuses_before_it_computes_and_force_replaces(package_path, photos, tmp_path, capsys):
    command = ["explain", str(package_path), str(photos / "b.png"), "--out", str(tmp_path / "out")]
    assert main(command) == 0
    (tmp_path / "out/b.json").write_text("mine")
    assert main(command) == 1
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "out/b.json").read_text() == "mine"
    assert main([*command, "--force"]) == 0
    assert json.loads((tmp_path / "out/b.json").read_text())["embedding_id"] == "tiny-mean-fp32"


def test_its_own_pictures_are_not_explained_again(package_path, photos):
    command = ["explain", str(package_path), str(photos), "--out", str(photos)]
    assert main(command) == 0
    before = files(photos)
    assert main([*command, "--force"]) == 0
    assert files(photos) == before


def test_an_unreadable_picture_is_skipped_and_listed(package_path, photos, tmp_path, capsys):
    (photos / "broken.jpg").write_text("no picture")
    out = tmp_path / "out"
    assert main(["explain", str(package_path), str(photos), "--out", str(out), "--json"]) == 0
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert len(answer["written"]) == 4
    assert [Path(s["image"]).name for s in answer["skipped"]] == ["broken.jpg"]
    assert "skipped" in printed.err
    assert "is not an image" in printed.err
    assert not [name for name in files(out) if "broken" in name]


def test_if_none_can_be_read_it_fails(package_path, tmp_path, capsys):
    (tmp_path / "broken.jpg").write_text("no picture")
    assert (
        main(["explain", str(package_path), str(tmp_path / "broken.jpg"), "--out", str(tmp_path / "out")])
        == 1
    )
    assert "none of 1 pictures" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["explain", "none.nemu", "PHOTO", "--out", "OUT"], "holds no manifest.json"),
        (["explain", "PACKAGE", "nowhere", "--out", "OUT"], "nowhere does not exist"),
        (["explain", "PACKAGE", "EMPTY", "--out", "OUT"], "holds no images"),
        (["info", "none.nemu"], "holds no manifest.json"),
        (["verify", "none.nemu"], "holds no manifest.json"),
    ],
)
def test_errors_say_came_expected_cure(package_path, photos, tmp_path, capsys, arguments, word):
    (tmp_path / "empty").mkdir()
    places = {"PACKAGE": package_path, "PHOTO": photos / "b.png"}
    places |= {"OUT": tmp_path / "out", "EMPTY": tmp_path / "empty"}
    assert main([str(places.get(a, a)) for a in arguments]) == 1
    printed = capsys.readouterr().err
    for expected in (word, "expected:", "cure:"):
        assert expected in printed


def test_a_full_disk_leaves_nothing_half_written(package_path, photos, tmp_path, monkeypatch, capsys):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "save", full)
    assert main(["explain", str(package_path), str(photos), "--out", str(tmp_path / "out")]) == 1
    assert "No space left" in capsys.readouterr().err
    assert files(tmp_path / "out") == []


def test_ctrl_c_leaves_whole_files_only(package_path, tmp_path):
    """A real signal at a real process, in the middle of many pictures."""
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(300):
        Image.new("RGB", (64, 64), (i % 256, 0, 0)).save(folder / f"{i:03}.bmp")
    out = tmp_path / "out"
    command = [sys.executable, "-m", "runtime", "explain", str(package_path), str(folder), "--out", str(out)]
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    deadline = time.monotonic() + 30
    while process.poll() is None and not list(out.glob("[!.]*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    written = files(out)
    assert 0 < len(written) < 900
    assert not [name for name in written if name.startswith(".")]
    for name in written:
        if name.endswith(".npy"):
            assert np.load(out / name).shape == (64, 64)
        if name.endswith(".json"):
            json.loads((out / name).read_text())


def test_info(package_path, capsys):
    assert main(["info", str(package_path)]) == 0
    printed = capsys.readouterr().out
    for word in ("tiny-mean", "24x32", "letterbox", "onnxruntime", "all 4 are"):
        assert word in printed
    assert main(["info", str(package_path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["manifest"]["input"]["resize"] == "letterbox"
    assert facts["engines"] == []


def test_info_without_any_backend_still_informs(package_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert main(["info", str(package_path)]) == 0
    assert "pip install onnxruntime" in capsys.readouterr().out


def test_verify(package_path, capsys):
    assert main(["verify", str(package_path)]) == 0
    assert "reference outputs" in capsys.readouterr().out
    assert main(["verify", str(package_path), "--json", "--backend", "onnxruntime"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["parity"]["n"] == 5
    assert answer["parity"]["control_failed"] is True
    assert answer["parity"]["embedding_error"] < 1e-5


def test_verify_fails_the_gate_with_exit_code_3(make_package, tmp_path, capsys):
    package = make_package(tmp_path / "off.nemu", error=0.01)
    assert main(["verify", str(package)]) == 3
    assert "embedding error" in capsys.readouterr().err


def test_verify_refuses_a_changed_file(package_path, capsys):
    with (package_path / "reference.npz").open("ab") as file:
        file.write(b"x")
    assert main(["verify", str(package_path)]) == 1
    assert "reference.npz" in capsys.readouterr().err


def test_doctor_names_what_is_missing_and_the_command(monkeypatch, capsys):
    for name in ("timm", "cuda", "cuda.bindings", "cuda.bindings.runtime", "cuda.cudart"):
        monkeypatch.setitem(sys.modules, name, None)
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "pip install timm" in printed
    assert 'pip install "cuda-bindings>=12.6"' in printed
    assert main(["doctor", "--json"]) == 0
    states = {x["module"]: x for x in json.loads(capsys.readouterr().out)["libraries"]}
    assert states["numpy"]["installed"] is True
    assert states["numpy"]["version"] == np.__version__
    assert states["timm"]["installed"] is False


def test_doctor_imports_none_of_what_it_looks_for():
    code = (
        "import sys; from runtime import doctor; doctor.report(); "
        "print([m for m in 'torch onnxruntime tensorrt_rtx onnx timm PIL'.split() if m in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"


def test_doctor_reports_a_driver_that_answers(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA L4, 570.1, 8.9'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert doctor.nvidia_driver() == "NVIDIA L4, 570.1, 8.9"


@pytest.mark.parametrize("command", ["explain", "info", "doctor", "verify"])
def test_every_help_shows_an_example(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert f"runtime {command}" in capsys.readouterr().out.partition("example:")[2]


def test_wrong_usage_is_exit_code_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["explain"])
    assert stopped.value.code == 2
    assert nemu.main([]) == 2
    assert nemu.main(["explode"]) == 2
    assert "explode" in capsys.readouterr().err


def test_nemu_passes_on_arguments_and_exit_codes(package_path, capsys):
    assert nemu.main(["info", str(package_path)]) == 0
    assert "tiny-mean" in capsys.readouterr().out
    assert nemu.main(["info", "none.nemu"]) == 1
    assert nemu.main(["--help"]) == 0
    printed = capsys.readouterr().out
    for command in ("train", "build", "explain", "info", "doctor", "verify"):
        assert f"  {command} " in printed
    assert nemu.main(["--version"]) == 0


@pytest.mark.parametrize(
    ("command", "library", "extra"), [("train", "torch", "train"), ("build", "onnx", "export")]
)
def test_nemu_says_which_extra_is_missing(command, library, extra, capsys, monkeypatch):
    def missing(*_):
        raise ModuleNotFoundError(f"No module named {library!r}", name=library)

    monkeypatch.setattr(nemu, "_run", missing)
    assert nemu.main([command]) == 1
    printed = capsys.readouterr().err
    assert library in printed
    assert f'".[{extra}]"' in printed
