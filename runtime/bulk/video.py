"""Explain a video or a camera: write an overlay video and a journal of its frames.

PyAV (FFmpeg) decodes and encodes; decoding, computing and encoding overlap.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.atomic import atomic_file
from runtime.bulk.images import Form, library
from runtime.bulk.journal import Journal
from runtime.errors import InputError
from runtime.explainer import Explainer
from runtime.media.decode import pillow
from runtime.progress import progress

if TYPE_CHECKING:
    from fractions import Fraction

EXTENSIONS = (".mp4", ".mkv", ".mov", ".avi", ".webm", ".m4v", ".ts")
"""Suffixes of video files, in upper or lower case."""
_CAMERA_RATE = 30
# The first one that FFmpeg has.  x264's default preset takes four times as long for two thirds of the size.
_CODECS = {"libx264": {"preset": "superfast"}, "mpeg4": {}}


def is_video(source: str) -> bool:
    """Whether a source is a video file, or the number of a camera."""
    return Path(source).suffix.lower() in EXTENSIONS or is_camera(source)


def is_camera(source: str) -> bool:
    """Whether a source is the number of a camera: `0` is /dev/video0, unless a file `0` exists."""
    return source.isdecimal() and not Path(source).exists()


def video_name(source: str) -> str:
    """Name of the results of a source."""
    return f"camera{source}" if is_camera(source) else Path(source).stem


def explain_video(
    explainer: Explainer,
    source: str,
    folder: Path,
    form: Form = Form(),  # noqa: B008 (frozen)
    *,
    toward: np.ndarray | None = None,
    fidelity: bool = False,
    force: bool = False,
    quiet: bool = False,
    most: int | None = None,
) -> int:
    """Write NAME.overlay.mp4, and the journal of its frames in NAME/; returns the number of frames.

    The overlay video is complete or missing.  Ctrl-C ends a camera and keeps what was filmed; it stops a
    file and keeps nothing.

    Args:
        source: a video file, or the number of a camera.
        form: its `keep` and `style` are used.
        toward: a target, float32 (D,).
        most: stop after this many frames.

    Raises:
        InputError: no such video, one that cannot be decoded, or one without frames.
        OutputExists: the overlay exists and `force` is not given.
        BackendUnavailable: PyAV is not installed.
    """
    av = library("av", "PyAV, which decodes and encodes video", 'pip install "av>=12"')
    name = video_name(source)
    container = _open(av, source)
    with (
        closing(container),
        _outputs(av, container, explainer, folder / name, force=force) as (journal, writer),
        progress(_length(container, most), unit="frame", quiet=quiet) as bar,
    ):
        frames = _frames(av, container, source, most)
        with (
            suppress(KeyboardInterrupt) if is_camera(source) else nullcontext(),
            closing(explainer.stream(frames, toward=toward, fidelity=fidelity)) as explanations,
        ):
            for count, explanation in enumerate(explanations):
                writer.write(explanation.overlay(keep=form.keep, style=form.style))
                journal.add({"name": str(count), **explanation.facts()}, explanation.embedding)
                bar.update()
        count = len(journal.done)
    if not count:
        raise InputError(f"{source} holds no frames", expected="at least one", cure="play it to check it")
    return count


def _length(container: Any, most: int | None) -> int | None:
    """Number of frames to expect; None if that is not known."""
    return min((n for n in (container.streams.video[0].frames, most) if n), default=None)


@contextmanager
def _outputs(
    av: Any, container: Any, explainer: Explainer, place: Path, *, force: bool
) -> Iterator[tuple[Journal, _Writer]]:
    """The journal in the folder `place`, and the writer of PLACE.overlay.mp4."""
    place.parent.mkdir(parents=True, exist_ok=True)
    id, dimension = explainer.embedding_id, explainer.manifest.encoder.dimension
    with (
        atomic_file(place.with_name(f"{place.name}.overlay.mp4"), force=force) as path,
        closing(Journal(place, embedding_id=id, dimension=dimension, force=True)) as journal,
        av.open(str(path), "w", format="mp4") as out,
        closing(_Writer(av, out, container.streams.video[0].average_rate or _CAMERA_RATE)) as writer,
    ):
        yield journal, writer


class _Writer:
    """Writes frames uint8 (H, W, 3) into a video, each with the current frames per second drawn on it."""

    def __init__(self, av: Any, container: Any, rate: Fraction | int) -> None:
        self._av, self._container, self._rate = av, container, rate
        self._stream: Any = None
        self._times: deque[float] = deque(maxlen=30)

    def write(self, image: np.ndarray) -> None:
        even = image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2]  # 4:2:0 video needs even sides
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
    frame = pillow().fromarray(np.ascontiguousarray(image))
    draw = ImageDraw.Draw(frame)
    draw.text((5, 5), text, fill=(0, 0, 0))
    draw.text((4, 4), text, fill=(255, 255, 255))
    return np.asarray(frame)


def _frames(av: Any, container: Any, source: str, most: int | None) -> Iterator[np.ndarray]:
    try:
        for frame in islice(container.decode(video=0), most):
            yield frame.to_ndarray(format="rgb24")
    except av.FFmpegError as error:
        raise _unreadable(source, error) from error


def _open(av: Any, source: str) -> Any:
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
