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
from runtime.backends import Backend, TargetBackend, choose, takes_targets, toward_backend
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
from runtime.targets import TargetLike, target_vectors

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
        backend: `auto`, `onnxruntime`, `tensorrt` or `ep-rtx` (see `runtime.backends.choose`), or a
            `Backend`, which then belongs to the explainer.
        device: number of the GPU.
        channel_order: `rgb` or `bgr`: the order of the channels in arrays that come in; files and PIL
            images know their own.
        precision: `fp32`, `fp16`, `bf16` or `int8`, if the package has it; None is fp32 with onnxruntime,
            whatever engine fits best, and with `ep-rtx` fp16 if the package has it.

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
        self._device = device
        self._for_targets: TargetBackend | None = None  # opened when first asked
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

    @property
    def takes_target(self) -> bool:
        """Whether pictures may be asked for a target: the masker was trained with them; not in int8."""
        return takes_targets(self._package) and self._backend.precision != "int8"

    @overload
    def __call__(
        self, image: _OneImage, *, toward: TargetLike | None = None, fidelity: bool = False
    ) -> Explanation: ...
    @overload  # one or a list: its type does not tell
    def __call__(self, image: np.ndarray, *, toward: Any = None, fidelity: bool = False) -> Any: ...
    @overload
    def __call__(
        self, image: list[Any] | tuple[Any, ...], *, toward: Any = None, fidelity: bool = False
    ) -> list[Explanation]: ...

    def __call__(
        self, image: ImageLike | list[Any] | tuple[Any, ...], *, toward: Any = None, fidelity: bool = False
    ) -> Explanation | list[Explanation]:
        """Explain one picture, or several: what in it made its embedding, or what in it is like a target.

        Args:
            image: what `runtime.image.load_image` takes (path, bytes, PIL image, uint8 array); or a list
                or tuple of these, sizes may differ; or a uint8 array (N, H, W, 3).
            toward: what to look for: an embedding, float (D,), a picture, or an explanation; a list of N, or
                a float array (N, D), is one for each of N pictures.  The mask is the smallest region whose
                embedding is like it; it is empty where the picture has nothing of it
                (`Explanation.absent`).  A vector of zeros, or None, is the picture's own embedding.
            fidelity: also run what each mask keeps, for `Explanation.fidelity`: twice the time.

        Returns:
            One `Explanation`; for a list, a tuple or an array with four axes, a list of them in order.

        Raises:
            InputError: a picture that cannot be used (of a list, its position is named), or none at all; a
                target that cannot be used, or one for a package whose masker takes none.
            BackendError: the run failed, the explainer is closed, or no engine here takes targets.
        """
        self._refuse_closed()
        if isinstance(image, (list, tuple)) or (isinstance(image, np.ndarray) and image.ndim == 4):
            return self._several(image, targets=self._targets(toward, len(image)), fidelity=fidelity)
        targets = self._targets(toward, None)
        return self._explain([self._prepare(image)], targets=targets, fidelity=fidelity)[0]

    def target(self, toward: TargetLike) -> np.ndarray:
        """What `toward` of a call means, as a vector, float32 (D,); what takes targets is open from then on.

        Raises:
            InputError: a target that cannot be used, or a package whose masker takes none.
            BackendError: a run failed, the explainer is closed, or no engine here takes targets.
        """
        self._refuse_closed()
        self._open_for_targets()
        return self._vectors(toward, None)[0]

    def compare(self, a: ImageLike, b: ImageLike, *, toward: bool = True) -> Comparison:
        """Why do two pictures match?  Each explained toward the other, and how much of it the masks keep.

        Args:
            toward: if the masker takes no target, or without this, each is explained by itself.

        Raises:
            InputError: a picture that cannot be used.
            BackendError: a run failed, the explainer is closed, or no engine here takes targets.
        """
        self._refuse_closed()
        toward = toward and self.takes_target
        if toward:
            self._open_for_targets()
        pair = [self._prepare_numbered(image, i) for i, image in enumerate((a, b))]
        pairs = [pair] if self._most(targets=True) > 1 else [[one] for one in pair]
        one, other = [e for part in pairs for e in self._explain(part, fidelity=not toward)]
        if toward:
            targets = np.stack([other.embedding, one.embedding])
            parts = [targets] if len(pairs) == 1 else [targets[:1], targets[1:]]
            asked = zip(pairs, parts, strict=True)
            one, other = [e for p, t in asked for e in self._explain(p, targets=t, fidelity=True)]
        exchanged = [
            self._explain([p._replace(fitted=self._shown(p, e))])[0].embedding
            for p, e in zip(pair, (other, one), strict=True)
        ]
        return Comparison(a=one, b=other, exchanged=(exchanged[0], exchanged[1]))

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
        self, frames: Iterable[ImageLike], *, toward: TargetLike | None = None, fidelity: bool = False
    ) -> Generator[Explanation, None, None]:
        """Explain frames one by one, lazily and in order; `toward` (one for all) and `fidelity` as of a call.

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
        backend, targets = self._backend, self._targets(toward, None)
        launch = None
        if isinstance(backend, PipelinedBackend) and targets is None and not fidelity:
            launch = partial(self._launch, backend)  # the run that fidelity adds needs the one before
        return stream(
            iter(frames),
            prepare=self._prepare,
            explain=lambda one: self._explain([one], targets=targets, fidelity=fidelity)[0],
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

    def warm_up(self, *, on_device: bool = False, toward: bool = False) -> None:
        """Do now what would make the first frames slow: load and compile kernels, record CUDA graphs.

        With an engine that is done for one image, for a full batch, for what is between and for `stream`;
        otherwise each is made at its first use, and what is never used takes no memory.

        Args:
            on_device: for `run_device`, instead of for images of the host.
            toward: also what takes targets.

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
                self._backend.run(self._black())
        if toward:
            self._open_for_targets()
            with self._one_run:
                self._refuse_closed()
                zeros = np.zeros((1, self.manifest.encoder.dimension), np.float32)
                self._for_targets.run_toward(self._black(), zeros)  # type: ignore[union-attr]

    def _black(self) -> np.ndarray:
        return np.zeros((1, self.manifest.input.height, self.manifest.input.width, 3), np.uint8)

    def close(self) -> None:
        """Give back the backend's memory and handles; may be called again."""
        self._closed = True
        with self._one_run:
            try:
                self._backend.close()
            finally:
                if self._for_targets is not None:
                    self._for_targets.close()

    def __enter__(self) -> Explainer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _targets(self, toward: Any, n: int | None) -> np.ndarray | None:
        """float32 (n, D), of `target_vectors`; opens what takes them."""
        if toward is None:
            return None
        self._open_for_targets()
        return self._vectors(toward, n)

    def _vectors(self, toward: Any, n: int | None) -> np.ndarray:
        return target_vectors(
            toward,
            n,
            embed=lambda image: self._explain([self._prepare(image)])[0].embedding,
            embedding_id=self._embedding_id,
            dimension=self.manifest.encoder.dimension,
        )

    def _open_for_targets(self) -> None:
        with self._one_run:
            self._refuse_closed()
            if self._for_targets is None:
                self._for_targets = toward_backend(self._package, self._backend, self._device)

    def _most(self, *, targets: bool) -> int:
        """Pictures of one run."""
        most = self._backend.max_batch
        return min(most, self._for_targets.max_batch) if targets and self._for_targets else most

    def _several(
        self,
        images: Sequence[ImageLike] | np.ndarray,
        *,
        targets: np.ndarray | None = None,
        fidelity: bool = False,
    ) -> list[Explanation]:
        if len(images) == 0:
            raise InputError(
                "no images (an empty list or array)",
                expected="at least one",
                cure="check where the list comes from",
            )
        explanations: list[Explanation] = []
        most = self._most(targets=targets is not None)
        for start in range(0, len(images), most):
            chunk = range(start, min(start + most, len(images)))
            prepared = [self._prepare_numbered(images[i], i) for i in chunk]
            asked = None if targets is None else targets[start : start + most]
            explanations += self._explain(prepared, targets=asked, fidelity=fidelity)
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

    def _explain(
        self, prepared: list[_Prepared], *, targets: np.ndarray | None = None, fidelity: bool = False
    ) -> list[Explanation]:
        """At most `_most` pictures, in one run, or two if what the masks keep is run too."""
        batch = _batch(prepared)
        with self._one_run:
            self._refuse_closed()
            started = time.perf_counter()
            if targets is None or self._for_targets is None:
                outputs = self._backend.run(batch)
            else:
                outputs = self._for_targets.run_toward(batch, targets)
            milliseconds = 1e3 * (time.perf_counter() - started)
            explanations = self._explanations(prepared, outputs, milliseconds, targets)
            if not fidelity:
                return explanations
            kept = [self._shown(p, e) for p, e in zip(prepared, explanations, strict=True)]
            masked = self._backend.run(np.stack(kept))[0]
        return [replace(e, masked_embedding=m) for e, m in zip(explanations, masked, strict=True)]

    def _shown(self, prepared: _Prepared, explanation: Explanation) -> np.ndarray:
        """uint8 (height, width, 3): what a mask keeps of a picture, on the graph's grid."""
        return occlude(prepared.fitted, explanation.graph_mask, self.manifest.input.mean)

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
        self,
        prepared: list[_Prepared],
        outputs: tuple[np.ndarray, np.ndarray],
        milliseconds: float,
        targets: np.ndarray | None = None,
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
                **(self._asked(targets[i]) if targets is not None else {"curve": self.manifest.level}),
            )
            for i, one in enumerate(prepared)
        ]

    def _asked(self, target: np.ndarray) -> dict[str, Any]:
        """What an explanation toward a target (D,) has; zeros are the picture itself."""
        if not target.any():
            return {"curve": self.manifest.level}
        record = self.manifest.target
        return {"target": target, "curve": None if record is None else record.level}

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
