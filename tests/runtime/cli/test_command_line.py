"""The commands explain and compare: files, journal, errors, and runs that were stopped."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from runtime import Explainer
from runtime.bulk.journal import LINES, ROWS, RUN
from runtime.media.encode import encode_jpeg, encode_png
from tests.runtime.run import lines, run

ROOT = Path(__file__).parents[3]


@pytest.fixture
def photos(tmp_path) -> Path:
    """Two folders with equal names, and a file that is no image."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    for i, name in enumerate(["a.png", "a.jpg", "b.png", "sub/a.png"]):
        colour = np.random.default_rng(i).integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)
        Image.fromarray(colour).save(folder / name)
    (folder / "note.txt").write_text("hello")
    return folder


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


explain = partial(run, "explain")


def test_explain_writes_files_and_journal_of_a_folder(package_path, photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert explain(package_path, photos, "--out", out, "--fidelity") == 0
    expected = ["a.jpg", "a.png", "b", "sub/a"]
    kinds = [".mask.npy", ".overlay.jpg"]
    assert files(out) == sorted([*(name + kind for name in expected for kind in kinds), LINES, ROWS, RUN])
    assert np.load(out / "sub/a.mask.npy").shape == (23, 30)
    noted, embeddings = lines(out), np.load(out / ROWS)
    assert [line["name"] for line in noted] == expected
    assert embeddings.shape == (4, 3)
    with Explainer(package_path) as explainer:
        for line, embedding in zip(noted, embeddings, strict=True):
            explanation = explainer(line["image"], fidelity=True)
            assert np.array_equal(embedding, explanation.embedding)
            assert (out / line["files"]["overlay"]).read_bytes() == encode_jpeg(explanation.overlay())
            assert np.array_equal(np.load(out / line["files"]["mask"]), explanation.mask)
            assert line["embedding_id"] == explanation.embedding_id
            assert line["fidelity"] == pytest.approx(explanation.fidelity, abs=1e-6)
    printed = capsys.readouterr()
    assert "4 explained, 0 known already, 0 skipped" in printed.out
    assert printed.out.splitlines()[-1].startswith("next: ")
    assert "4/4" in printed.err


def test_explain_writes_the_formats_asked_for(package_path, photos, tmp_path, capsys):
    out = tmp_path / "out"
    options = ("--masks", "png", "--overlays", "none", "--embeddings", "parquet", "--quiet")
    command = (package_path, photos / "b.png", "--out", out, *options)
    assert explain(*command, "--style", "heat", "--keep", "0.9") == 1
    assert "--keep and --style with --overlays none" in capsys.readouterr().err
    assert not out.exists()
    assert explain(*command) == 0
    assert files(out) == ["b.mask.png", ROWS, "embeddings.parquet", LINES, RUN]
    assert capsys.readouterr().err == ""
    with Explainer(package_path) as explainer:
        mask = explainer(photos / "b.png").mask
    deep = np.asarray(Image.open(out / "b.mask.png"))
    assert deep.max() > 256
    assert np.abs(deep / 65535 - mask).max() < 1e-5
    table = parquet.read_table(out / "embeddings.parquet").to_pydict()
    assert table["name"] == ["b"]
    assert np.array_equal(np.float32(table["embedding"]), np.load(out / ROWS))


def test_explain_reads_stdin_and_patterns(package_path, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{photos / 'b.png'}\n\n{photos / 'a.jpg'}\n"))
    assert explain(package_path, "-", "--out", tmp_path / "list") == 0
    assert [line["name"] for line in lines(tmp_path / "list")] == ["b", "a"]
    assert explain(package_path, photos / "**/a.png", "--out", tmp_path / "pattern") == 0
    assert [line["name"] for line in lines(tmp_path / "pattern")] == ["a.png", "sub/a.png"]


def test_compare_writes_image_and_record(package_path, photos, tmp_path, capsys):
    out = tmp_path / "out"
    command = ("compare", package_path, photos / "a.png", photos / "b.png", "--out", out)
    assert run(*command, "--json") == 0
    assert files(out) == ["a-b.compare.json", "a-b.compare.png"]
    printed = json.loads(capsys.readouterr().out)
    written = json.loads((out / "a-b.compare.json").read_text())
    assert {k: printed[k] for k in written} == written
    assert run(*command) == 1
    assert "--force" in capsys.readouterr().err
    assert run(*command, "--force") == 0
    said = capsys.readouterr().out
    assert f"similarity {written['similarity']:.3f}; of what the masks keep" in said
    assert said.splitlines()[-1].startswith("next: ")


def test_second_run_adds_and_force_replaces(package_path, photos, tmp_path, capsys):
    out = tmp_path / "out"
    assert explain(package_path, photos / "b.png", "--out", out) == 0
    (out / "b.overlay.jpg").write_text("mine")
    assert explain(package_path, photos / "sub", photos / "b.png", "--out", out) == 0
    printed = capsys.readouterr().out
    assert "1 explained, 1 known already" in printed
    assert "--force replaces them" in printed
    assert [line["name"] for line in lines(out)] == ["b", "a"]
    assert (out / "b.overlay.jpg").read_text() == "mine"
    assert explain(package_path, photos / "b.png", "--out", out, "--force") == 0
    assert [line["name"] for line in lines(out)] == ["b"]
    assert np.load(out / ROWS).shape == (1, 3)
    assert (out / "b.overlay.jpg").read_bytes().startswith(b"\xff\xd8")  # JPEG


def test_image_too_large_for_jpeg_needs_png(package_path, tmp_path, capsys):
    strip, other = tmp_path / "in/strip.png", tmp_path / "in/other.png"
    strip.parent.mkdir()
    Image.new("RGB", (66000, 4)).save(strip)
    Image.new("RGB", (40, 30)).save(other)
    out = tmp_path / "out"
    assert explain(package_path, strip.parent, "--out", out) == 0
    assert "strip" not in {line["name"] for line in lines(out)}
    assert "--overlays png" in capsys.readouterr().err
    assert explain(package_path, strip.parent, "--out", out, "--overlays", "png") == 0
    assert [line["name"] for line in lines(out)] == ["other", "strip"]
    with Explainer(package_path) as explainer:
        assert (out / "strip.overlay.png").read_bytes() == encode_png(explainer(strip).overlay())


def test_force_removes_only_files_of_earlier_runs(package_path, photos, tmp_path):
    (photos / "b.mask.png").write_text("of the user")
    mine = files(photos)
    assert explain(package_path, photos / "b.png", "--out", photos, "--overlays", "png") == 0
    assert explain(package_path, photos / "b.png", "--out", photos, "--force") == 0
    assert files(photos) == sorted([*mine, ROWS, LINES, RUN, "b.overlay.jpg", "b.mask.npy"])
    assert explain(package_path, photos, "--out", photos, "--force", "--quiet") == 0
    before = files(photos)
    assert explain(package_path, photos, "--out", photos, "--force", "--quiet") == 0
    assert files(photos) == before  # overlays are not explained again


def test_unreadable_image_is_skipped_and_listed(package_path, photos, tmp_path, capsys):
    (photos / "broken.jpg").write_text("no picture")
    out = tmp_path / "out"
    assert explain(package_path, photos, "--out", out, "--json") == 0
    printed = capsys.readouterr()
    answer = json.loads(printed.out)
    assert len(answer["written"]) == 4
    assert [Path(s["image"]).name for s in answer["skipped"]] == ["broken.jpg"]
    assert "skipped" in printed.err
    assert "is not an image" in printed.err
    assert not [name for name in files(out) if "broken" in name]
    assert explain(package_path, photos / "broken.jpg", "--out", tmp_path / "none") == 1
    assert "none of 1 images" in capsys.readouterr().err


def test_full_disk_leaves_no_incomplete_file(package_path, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(np, "save", Mock(side_effect=OSError(28, "No space left on device")))
    assert explain(package_path, photos, "--out", tmp_path / "out") == 1
    assert "No space left" in capsys.readouterr().err
    assert files(tmp_path / "out") == sorted([ROWS, LINES, RUN, "a.jpg.overlay.jpg"])
    assert np.load(tmp_path / "out" / ROWS).shape == (0, 3)


@pytest.mark.parametrize(("end", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_stopped_run_goes_on_without_loss_or_duplicate(package_path, tmp_path, end, code):
    """A real signal stops a real process in the middle of many images."""
    folder = tmp_path / "many"
    folder.mkdir()
    for i in range(300):
        Image.new("RGB", (64, 64), (i % 256, i // 2, 0)).save(folder / f"{i:03}.bmp")
    out, whole = tmp_path / "out", tmp_path / "whole"
    command = [sys.executable, "-m", "runtime", "explain", str(package_path), str(folder), "--out", str(out)]
    process = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    )
    deadline = time.monotonic() + 30
    while process.poll() is None and len(list(out.glob("*.overlay.jpg"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(end)
    _, said = process.communicate(timeout=30)
    assert process.returncode == code, said
    if end == signal.SIGINT:
        assert not [name for name in files(out) if name.startswith(".")]
        assert 0 < len(lines(out)) < 300
        assert len(np.load(out / ROWS)) - len(lines(out)) in (0, 1)  # stopped between the two
    assert explain(package_path, folder, "--out", out, "--quiet") == 0
    assert explain(package_path, folder, "--out", whole, "--quiet") == 0
    assert [line["name"] for line in lines(out)] == [f"{i:03}" for i in range(300)]
    assert np.array_equal(np.load(out / ROWS), np.load(whole / ROWS))
    assert {n for n in files(out) if not n.startswith(".")} == set(files(whole))
