"""Explained videos: every frame once, in order, with a counter; complete or missing."""

from __future__ import annotations

import av
import numpy as np
import pytest

from runtime.bulk.journal import ROWS
from runtime.bulk.video import is_video
from tests.runtime.run import lines, run

FRAMES = 12


@pytest.fixture
def film(tmp_path):
    """Frames of rising brightness, 65 × 48: an odd width, of which the overlay drops a column."""
    path = tmp_path / "film.mkv"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 65, 48, "bgr0"
        for i in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.full((48, 65, 3), 20 * i, np.uint8), format="rgb24")
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def decoded(path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_every_frame_once_and_in_order(package_path, film, tmp_path, capsys):
    out = tmp_path / "out"
    assert run("explain", package_path, film, "--out", out) == 0
    assert f"film: {FRAMES} frames" in capsys.readouterr().out
    assert [line["name"] for line in lines(out / "film")] == [str(i) for i in range(FRAMES)]
    brightness = np.load(out / "film" / ROWS)[:, 0]
    assert np.all(np.diff(brightness) > 0)
    overlays = decoded(out / "film.overlay.mp4")
    assert len(overlays) == FRAMES
    assert overlays[0].shape == (48, 64, 3)
    assert overlays[5][:16, :60].max() > overlays[5][30:].max()  # the counter is lighter than the frame


def test_frames_option_and_force(package_path, film, tmp_path, capsys):
    command = ("explain", package_path, film, "--out", tmp_path, "--quiet")
    assert run(*command, "--frames", "5") == 0
    assert len(decoded(tmp_path / "film.overlay.mp4")) == 5
    assert run(*command) == 1
    assert "--force" in capsys.readouterr().err
    assert run(*command, "--force") == 0


def test_broken_video_is_named_and_leaves_nothing(package_path, tmp_path, capsys):
    empty, broken = tmp_path / "empty.mp4", tmp_path / "broken.mp4"
    empty.touch()
    broken.write_bytes(b"no video" * 100)
    for source, name in ((empty, empty), (broken, broken), (97, "camera 97 (/dev/video97)")):
        assert run("explain", package_path, source, "--out", tmp_path / "out") == 1
        assert f"{name} cannot be read" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_is_video(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_video("0")
    assert is_video("a/b.MP4")
    assert not is_video("photo.png")
    (tmp_path / "7").mkdir()
    assert not is_video("7")  # a folder of that name
