"""Explained videos: every frame once, in order, with a counter; complete or missing."""

from __future__ import annotations

import json

import av
import numpy as np
import pytest

from runtime.__main__ import main
from runtime.bulk.journal import LINES, ROWS
from runtime.bulk.video import is_video

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
    assert main(["explain", str(package_path), str(film), "--out", str(out)]) == 0
    assert f"film: {FRAMES} frames" in capsys.readouterr().out
    lines = [json.loads(line) for line in (out / "film" / LINES).read_text().splitlines()]
    assert [line["name"] for line in lines] == [str(i) for i in range(FRAMES)]
    brightness = np.load(out / "film" / ROWS)[:, 0]
    assert np.all(np.diff(brightness) > 0)
    overlays = decoded(out / "film.overlay.mp4")
    assert len(overlays) == FRAMES
    assert overlays[0].shape == (48, 64, 3)
    assert overlays[5][:16, :60].max() > overlays[5][30:].max()  # the counter is lighter than the frame


def test_frames_option_stops_the_video(package_path, film, tmp_path):
    command = ["explain", str(package_path), str(film), "--out", str(tmp_path), "--frames", "5", "--quiet"]
    assert main(command) == 0
    assert len(decoded(tmp_path / "film.overlay.mp4")) == 5


def test_overlay_is_not_replaced_without_force(package_path, film, tmp_path, capsys):
    command = ["explain", str(package_path), str(film), "--out", str(tmp_path), "--quiet"]
    assert main(command) == 0
    assert main(command) == 1
    assert "--force" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0


@pytest.mark.parametrize("content", [b"", b"no video" * 100])
def test_broken_video_is_named_and_leaves_nothing(package_path, tmp_path, capsys, content):
    (tmp_path / "film.mp4").write_bytes(content)
    out = tmp_path / "out"
    assert main(["explain", str(package_path), str(tmp_path / "film.mp4"), "--out", str(out)]) == 1
    assert "film.mp4 cannot be read" in capsys.readouterr().err
    assert not out.exists()


def test_missing_camera_is_an_error(package_path, tmp_path, capsys):
    assert main(["explain", str(package_path), "97", "--out", str(tmp_path / "out")]) == 1
    assert "camera 97 (/dev/video97) cannot be read" in capsys.readouterr().err


def test_is_video(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert is_video("0")
    assert is_video("a/b.MP4")
    assert not is_video("photo.png")
    (tmp_path / "7").mkdir()
    assert not is_video("7")  # a folder of that name
