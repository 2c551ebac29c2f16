"""Explain a video or a camera: the overlay as a video, a journal of its frames.

PyAV (FFmpeg) decodes and encodes; decoding, computing and encoding overlap.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.atomic import atomic_file
from runtime.decode import pillow
from runtime.errors import BackendUnavailable, InputError
from runtime.explainer import Explainer
from runtime.journal import Journal
from runtime.progress import progress

if TYPE_CHECKING:
    from fractions import Fraction

EXTENSIONS = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".ts")
"""What `is_video` takes for a video file, in any case."""
_CAMERA_RATE = 30
# The first that this FFmpeg has.  x264's own default takes four times the time for two thirds of the size.
_CODECS = {"libx264": {"preset": "superfast"}, "mpeg4": {}}


def is_video(source: str) -> bool:
    """Whether a source is a video file, or the number of a camera."""
    return Path(source).suffix.lower() in EXTENSIONS or is_camera(source)


def is_camera(source: str) -> bool:
    """Whether a source is the number of a camera: `0` is /dev/video0, unless a file has that name."""
    return source.isdecimal() and not Path(source).exists()


def video_name(source: str) -> str:
    """What the results of a source are called."""
    return f"camera{source}" if is_camera(source) else Path(source).stem


def explain_video(
    explainer: Explainer,
    source: str,
    folder: Path,
    *,
    draw: dict[str, Any] | None = None,
    toward: np.ndarray | None = None,
    fidelity: bool = False,
    force: bool = False,
    quiet: bool = False,
    most: int | None = None,
) -> int:
    """Write NAME.overlay.mp4, and the journal of its frames in NAME/; returns how many frames.

    The overlay video is whole or not there; one that is there is not made again.  Ctrl-C ends a camera,
    and keeps what was filmed; it stops a file, and leaves nothing half-written.

    Args:
        source: of a video file, or the number of a camera.
        draw: `keep` and `style` of `Explanation.overlay`.
        toward: a target, float32 (D,).
        most: end after so many frames.

    Raises:
        InputError: no such video, or one that cannot be decoded.
        OutputExists: its overlay is there and `force` is not given.
        BackendUnavailable: PyAV is not installed.
    """
    av = _pyav()
    name = video_name(source)
    dimension = explainer.manifest.encoder.dimension
    container = _open(av, source)
    try:
        stream = container.streams.video[0]
        rate = stream.average_rate or _CAMERA_RATE
        total = min((n for n in (stream.frames, most) if n), default=None)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with (
            atomic_file(folder / f"{name}.overlay.mp4", force=force) as path,
            Journal(
                folder / name, embedding_id=explainer.embedding_id, dimension=dimension, force=True
            ) as journal,
            progress(total, unit="frame", quiet=quiet) as bar,
            av.open(str(path), "w", format="mp4") as out,
        ):
            count, writer = 0, _Writer(av, out, rate)
            frames = _frames(av, container, source, most)
            explanations = explainer.stream(frames, toward=toward, fidelity=fidelity)
            try:
                for explanation in explanations:
                    writer.write(explanation.overlay(**(draw or {})))
                    journal.add({"name": str(count), **explanation.facts()}, explanation.embedding)
                    count += 1
                    bar.update()
            except KeyboardInterrupt:
                if not is_camera(source):
                    raise
            finally:
                explanations.close()
                writer.close()
    finally:
        container.close()
    if not count:
        raise InputError(f"{source} holds no frames", expected="at least one", cure="play it to check it")
    return count


class _Writer:
    """Frames uint8 (H, W, 3) into a video, each with a counter of the frames a second written so far."""

    def __init__(self, av: ModuleType, container: Any, rate: Fraction | int) -> None:
        self._av, self._container, self._rate = av, container, rate
        self._stream: Any = None
        self._times: deque[float] = deque(maxlen=30)

    def write(self, image: np.ndarray) -> None:
        even = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]  # what 4:2:0 video can hold
        if self._stream is None:
            codec = next(c for c in _CODECS if c in self._av.codecs_available)
            self._stream = self._container.add_stream(codec, rate=self._rate, options=_CODECS[codec])
            self._stream.height, self._stream.width = even.shape[:2]
            self._stream.pix_fmt = "yuv420p"
        self._times.append(time.perf_counter())
        frame = self._av.VideoFrame.from_ndarray(_counted(even, self._times), format="rgb24")
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))


def _counted(image: np.ndarray, times: deque[float]) -> np.ndarray:
    from PIL import ImageDraw

    if len(times) < 2:
        return np.ascontiguousarray(image)
    text = f"{(len(times) - 1) / max(times[-1] - times[0], 1e-9):.1f} fps"
    picture = pillow().fromarray(np.ascontiguousarray(image))
    draw = ImageDraw.Draw(picture)
    draw.text((5, 5), text, fill=(0, 0, 0))
    draw.text((4, 4), text, fill=(255, 255, 255))
    return np.asarray(picture)


def _frames(av: ModuleType, container: Any, source: str, most: int | None) -> Iterator[np.ndarray]:
    count = 0
    try:
        for frame in container.decode(video=0):
            if most is not None and count >= most:
                return
            count += 1
            yield frame.to_ndarray(format="rgb24")
    except av.FFmpegError as error:
        raise _unreadable(source, error) from error


def _open(av: ModuleType, source: str) -> Any:
    try:
        camera = {"file": f"/dev/video{source}", "format": "v4l2"}
        container = av.open(**camera if is_camera(source) else {"file": source})
    except (av.FFmpegError, OSError) as error:
        raise _unreadable(source, error) from error
    if not container.streams.video:
        container.close()
        raise InputError(f"{source} holds no video", expected="a video stream", cure="check the file")
    container.streams.video[0].thread_type = "AUTO"
    return container


def _unreadable(source: str, error: Exception) -> InputError:
    what = f"camera {source} (/dev/video{source})" if is_camera(source) else source
    return InputError(
        f"{what} cannot be read ({error})",
        expected="a video that FFmpeg decodes, or the number of a camera",
        cure="play it with another program; cameras: ls /dev/video*",
    )


def _pyav() -> ModuleType:
    try:
        import av
    except ImportError as error:
        raise BackendUnavailable(
            "PyAV is not installed",
            expected="PyAV, which decodes and encodes video",
            cure='pip install "av>=12"',
        ) from error
    return av
