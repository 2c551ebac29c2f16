"""Explainer: a package and a backend → explanations.  No numerics of its own."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Union, overload

import numpy as np

from runtime.anomaly import FALSE_ALARMS, Watch, open_bank
from runtime.backends import Backend, choose
from runtime.backends.base import DeviceBackend, PipelinedBackend, WarmBackend
from runtime.bank import Bank
from runtime.comparison import Comparison
from runtime.device_explanation import DeviceExplanation
from runtime.errors import BackendError, InputError
from runtime.explanation import Explanation
from runtime.image import Geometry, ImageLike, Placement, check_channel_order, load_image
from runtime.manifest import Manifest
from runtime.occlusion import occlude
from runtime.package import Package
from runtime.stream import stream

if TYPE_CHECKING:
    import PIL.Image

_OneImage = Union[str, "os.PathLike[str]", bytes, "PIL.Image.Image"]


class _Prepared(NamedTuple):
    """A picture on its way to the backend."""

    original: np.ndarray  # uint8 (H0, W0, 3)
    fitted: np.ndarray  # uint8 (height, width, 3)
    placement: Placement
    milliseconds: float


class Explainer:
    """Embedding and explanation of pictures, from one compiled package.

        with Explainer("demo.nemu") as explainer:
            explanation = explainer("photo.jpg")

    The backend is chosen once, here; after that nothing falls back: what fails raises and names the cure.
    Several threads may use one explainer, also while a `stream` of it is open: they take turns at the
    backend.  For runs side by side, give each thread an explainer of its own.

    Args:
        package: the folder NAME.nemu, or an opened `Package`.
        backend: `auto`, `onnxruntime` or `tensorrt` (see `runtime.backends.choose`), or a `Backend`, which
            then belongs to the explainer.
        device: number of the GPU.
        channel_order: `rgb` or `bgr`: the order of the channels in arrays that come in; files and PIL
            images know their own.
        precision: `fp32`, `fp16`, `bf16` or `int8`, if the package has it; None is fp32 with onnxruntime,
            and whatever engine fits best.

    Raises:
        PackageError: the package is missing, was changed, or is from a newer version.
        BackendError: the backend is not here, no engine fits, or it cannot load the graph.
        InputError: an unknown backend or channel order, or a precision that the backend does not run.
    """

    def __init__(
        self,
        package: str | os.PathLike[str] | Package,
        *,
        backend: str | Backend = "auto",
        device: int = 0,
        channel_order: str = "rgb",
        precision: str | None = None,
    ) -> None:
        check_channel_order(channel_order)
        self._package = package if isinstance(package, Package) else Package.open(package)
        self._geometry = Geometry.from_record(self.manifest.input)
        self._channel_order = channel_order
        chosen = choose(self._package, backend, device, precision) if isinstance(backend, str) else backend
        if precision not in (None, chosen.precision):
            raise InputError(
                f"precision {precision!r} with a backend that computes in {chosen.precision}",
                expected=f"precision {chosen.precision!r}, or none",
                cure="leave the precision out",
            )
        self._backend = chosen
        self._embedding_id = f"{self.manifest.embedding_id}-{chosen.precision}"
        self._one_run = threading.Lock()  # a stream's worker and the caller take turns
        self._closed = False

    @property
    def manifest(self) -> Manifest:
        """What the package says about itself."""
        return self._package.manifest

    @property
    def backend(self) -> Backend:
        """The backend that was chosen; its `name` and `why` say which and why."""
        return self._backend

    @property
    def embedding_id(self) -> str:
        """Encoder, kind of embedding and precision: only equal ids may be compared."""
        return self._embedding_id

    @overload
    def __call__(self, image: _OneImage, *, fidelity: bool = False) -> Explanation: ...
    @overload  # one or a list: its type does not tell
    def __call__(self, image: np.ndarray, *, fidelity: bool = False) -> Any: ...
    @overload
    def __call__(
        self, image: list[Any] | tuple[Any, ...], *, fidelity: bool = False
    ) -> list[Explanation]: ...

    def __call__(
        self, image: ImageLike | list[Any] | tuple[Any, ...], *, fidelity: bool = False
    ) -> Explanation | list[Explanation]:
        """Explain one picture, or several.

        Args:
            image: what `runtime.image.load_image` takes (path, bytes, PIL image, uint8 array); or a list
                or tuple of these, sizes may differ; or a uint8 array (N, H, W, 3).
            fidelity: also run what each mask keeps, for `Explanation.fidelity`: twice the time.

        Returns:
            One `Explanation`; for a list, a tuple or an array with four axes, a list of them in order.

        Raises:
            InputError: a picture that cannot be used (of a list, its position is named), or none at all.
            BackendError: the run failed, or the explainer is closed.
        """
        self._refuse_closed()
        if isinstance(image, (list, tuple)) or (isinstance(image, np.ndarray) and image.ndim == 4):
            return self._several(image, fidelity=fidelity)
        return self._explain([self._prepare(image)], fidelity=fidelity)[0]

    def compare(self, a: ImageLike, b: ImageLike) -> Comparison:
        """Why do two pictures match?  Both explained, their similarity, and how much of it the masks keep.

        Raises:
            InputError: a picture that cannot be used.
            BackendError: a run failed, or the explainer is closed.
        """
        self._refuse_closed()
        one, other = self._several([a, b], fidelity=True)
        return Comparison(a=one, b=other)

    def against(self, bank: str | os.PathLike[str] | Bank, *, false_alarms: float = FALSE_ALARMS) -> Watch:
        """What judges pictures by a bank of normal ones: which are anomalous, how much and where.

            watch = explainer.against("line1.bank")
            found = watch("part.jpg")

        It computes on the CPU, in float32, whatever this explainer's backend, and stays when that is closed.

        Args:
            bank: a file of `nemu bank`, or what `fit_bank` returned.
            false_alarms: share of normal pictures that may be called anomalous; `Bank.threshold`.

        Raises:
            InputError: no such file, a bank of another package, or a share outside [0, 1).
            SchemaError, IntegrityError: as `Bank.load`.
            PackageError: the package was built without local features.
        """
        self._refuse_closed()
        known, order = open_bank(bank), self._channel_order
        return Watch(self._package, known, channel_order=order, false_alarms=false_alarms)

    def stream(
        self, frames: Iterable[ImageLike], *, fidelity: bool = False
    ) -> Generator[Explanation, None, None]:
        """Explain frames one by one, lazily and in order; `fidelity` as of a call.

        While you work on one explanation (its `mask`, `overlay` and `save` are made when you ask), a worker
        thread runs the next frame, and another takes the one after it from `frames` and prepares it.  So
        `frames` is read two ahead, and from that thread.  An array is copied when it is taken: a camera may
        reuse its buffer.  An exception of `frames` or of a frame is raised where its explanation would have
        come, and ends the stream.  Closing the iterator stops both workers, after the run and the frame
        that they are waiting for.

        With an engine on a GPU, `frames` is read three ahead, and a frame that is there already is handed to
        the GPU while it still computes the one before it.
        """
        self._refuse_closed()
        backend = self._backend
        launch = None
        if isinstance(backend, PipelinedBackend) and not fidelity:  # whose second run needs the first
            launch = partial(self._launch, backend)
        return stream(
            iter(frames),
            prepare=self._prepare,
            explain=lambda one: self._explain([one], fidelity=fidelity)[0],
            launch=launch,
        )

    def run_device(self, array: Any, *, stream: Any = None) -> DeviceExplanation:
        """Explain images that are on the GPU already; embedding and mask stay there.

        The host waits for nothing: it enqueues and returns.

        Args:
            array: of PyCUDA, CuPy, torch or any other library with DLPack or the CUDA array interface:
                uint8 (N, height, width, 3) RGB of the graph's size (`manifest.input`), C-contiguous, on the
                engine's device.  Do not write to it before the outputs are there.
            stream: of the same library, or a `cudaStream_t` as a number.  The images are taken as of what
                that stream has enqueued so far, and what it enqueues next finds the outputs.  Without it,
                the images are taken as of the stream that the array names, or of the default stream.

        Raises:
            InputError: an array of another kind, or on another device.
            BackendError: the backend has no device, the run failed, or the explainer is closed.
        """
        backend = self._device_backend()
        with self._one_run:
            self._refuse_closed()
            embedding, mask = backend.run_device(array, stream)
        return DeviceExplanation(embedding=embedding, mask=mask, embedding_id=self._embedding_id)

    def warm_up(self, *, on_device: bool = False) -> None:
        """Do now what would make the first frames slow: load and compile kernels, record CUDA graphs.

        With an engine that is done for one image, for a full batch, for what is between and for `stream`;
        otherwise each is made at its first use, and what is never used takes no memory.

        Args:
            on_device: for `run_device`, instead of for images of the host.

        Raises:
            BackendError: a run failed, the explainer is closed, or the backend has no device.
        """
        if on_device:
            self._device_backend()
        with self._one_run:
            self._refuse_closed()
            if isinstance(self._backend, WarmBackend):
                self._backend.warm_up(on_device=on_device)
            else:
                side = self.manifest.input
                self._backend.run(np.zeros((1, side.height, side.width, 3), np.uint8))

    def close(self) -> None:
        """Give back the backend's memory and handles; may be called again."""
        self._closed = True
        with self._one_run:
            self._backend.close()

    def __enter__(self) -> Explainer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _several(
        self, images: Sequence[ImageLike] | np.ndarray, *, fidelity: bool = False
    ) -> list[Explanation]:
        if len(images) == 0:
            raise InputError(
                "no images (an empty list or array)",
                expected="at least one",
                cure="check where the list comes from",
            )
        explanations: list[Explanation] = []
        for start in range(0, len(images), self._backend.max_batch):
            chunk = range(start, min(start + self._backend.max_batch, len(images)))
            prepared = [self._prepare_numbered(images[i], i) for i in chunk]
            explanations += self._explain(prepared, fidelity=fidelity)
        return explanations

    def _prepare_numbered(self, image: ImageLike, position: int) -> _Prepared:
        try:
            return self._prepare(image)
        except InputError as error:
            raise InputError(
                f"images[{position}]: {error.came}", expected=error.expected, cure=error.cure
            ) from error

    def _prepare(self, image: ImageLike) -> _Prepared:
        started = time.perf_counter()
        original = load_image(image, channel_order=self._channel_order)
        fitted, placement = self._geometry.fit(original)
        return _Prepared(original, fitted, placement, 1e3 * (time.perf_counter() - started))

    def _explain(self, prepared: list[_Prepared], *, fidelity: bool = False) -> list[Explanation]:
        """At most `max_batch` pictures, in one run, or two if what the masks keep is run too."""
        batch = _batch(prepared)
        with self._one_run:
            self._refuse_closed()
            started = time.perf_counter()
            outputs = self._backend.run(batch)
            milliseconds = 1e3 * (time.perf_counter() - started)
            explanations = self._explanations(prepared, outputs, milliseconds)
            if not fidelity:
                return explanations
            mean = self.manifest.input.mean
            kept = [
                occlude(p.fitted, e.graph_mask, mean) for p, e in zip(prepared, explanations, strict=True)
            ]
            masked = self._backend.run(np.stack(kept))[0]
        return [replace(e, masked_embedding=m) for e, m in zip(explanations, masked, strict=True)]

    def _launch(self, backend: PipelinedBackend, prepared: _Prepared) -> Callable[[], Explanation]:
        """Start a run; what is returned waits for its end."""
        with self._one_run:
            self._refuse_closed()
            started = time.perf_counter()
            wait = backend.submit(_batch([prepared]))

        def finish() -> Explanation:
            with self._one_run:
                self._refuse_closed()
                outputs = wait()
            return self._explanations([prepared], outputs, 1e3 * (time.perf_counter() - started))[0]

        return finish

    def _explanations(
        self, prepared: list[_Prepared], outputs: tuple[np.ndarray, np.ndarray], milliseconds: float
    ) -> list[Explanation]:
        embedding, mask = outputs  # (N, D), (N, height, width)
        timing: dict[str, float | str] = {"run": milliseconds, "batch": len(prepared)}
        if self._backend.degraded:
            timing["degraded"] = self._backend.degraded
        if len(embedding) != len(prepared) or len(mask) != len(prepared):
            raise BackendError(
                f"{self._backend.name} returned {len(embedding)} embeddings and {len(mask)} masks",
                expected=f"{len(prepared)} of each",
                cure="python -m runtime verify PACKAGE",
            )
        return [
            Explanation(
                embedding=embedding[i],
                graph_mask=mask[i],
                placement=one.placement,
                image=one.original,
                embedding_id=self._embedding_id,
                timing={"preprocess": one.milliseconds, **timing},
                curve=self.manifest.level,
            )
            for i, one in enumerate(prepared)
        ]

    def _device_backend(self) -> DeviceBackend:
        backend: Any = self._backend
        if hasattr(backend, "run_device"):  # in every frame: `isinstance` would take microseconds
            return backend
        raise BackendError(
            f"run_device with {backend.name}, which runs on the host",
            expected="a backend on a GPU",
            cure="open the Explainer with backend='tensorrt', or call it with an array of the host",
        )

    def _refuse_closed(self) -> None:
        if self._closed:
            raise BackendError(
                "this explainer is closed", expected="an open one", cure="make a new Explainer"
            )


def _batch(prepared: list[_Prepared]) -> np.ndarray:
    """uint8 (N, height, width, 3)."""
    one = prepared[0].fitted
    return one[None] if len(prepared) == 1 else np.stack([each.fitted for each in prepared])
