"""Explainer: a package and a backend → explanations."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from functools import partial
from typing import Any, overload

import numpy as np

from runtime.anomaly.bank import Bank
from runtime.anomaly.watch import FALSE_ALARMS, Watch
from runtime.backends.base import Backend, DeviceBackend, PipelinedBackend, WarmBackend
from runtime.backends.choice import choose, takes_targets
from runtime.comparison import Comparison
from runtime.device_explanation import DeviceExplanation
from runtime.errors import BackendError, InputError
from runtime.explanation import Explanation
from runtime.media.decode import ImageLike, OneImage
from runtime.opened_package import OpenedPackage, is_several
from runtime.package.folder import Package
from runtime.runs import Runs, TargetLike, stream


class Explainer(OpenedPackage[Backend]):
    """Embeds and explains images with one compiled package.

        with Explainer("demo.nemu") as explainer:
            explanation = explainer("photo.jpg")

    The backend is chosen once, here.  After that there is no fallback: a failure raises and names the cure.
    Several threads may use one explainer, also while one of its streams is open: they take turns at the
    backend.  To run side by side, give each thread an explainer of its own.

    Args:
        package: the folder NAME.nemu, or an opened `Package`.
        backend: `auto`, `onnxruntime`, `tensorrt` or `ep-rtx` (see `runtime.backends.choice.choose`); or a
            `Backend`, which the explainer then owns and closes.
        device: number of the GPU.
        channel_order: `rgb` or `bgr`: the order of the channels in arrays that come in; files and PIL
            images know their own.
        precision: `fp32`, `fp16`, `bf16` or `int8`, if the package has it.  None means fp32 with onnxruntime,
            the best fitting engine with TensorRT, and with `ep-rtx` fp16 if the package has it.

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
        super().__init__(package, channel_order=channel_order)
        chosen = choose(self._package, backend, device, precision) if isinstance(backend, str) else backend
        if precision not in (None, chosen.precision):
            raise InputError(
                f"precision {precision!r} with a backend that computes in {chosen.precision}",
                expected=f"precision {chosen.precision!r}, or none",
                cure="leave the precision out",
            )
        self._use(chosen)
        own_id, turns = self._embedding_id, self._turns
        self._runs = Runs(self._package, chosen, device=device, embedding_id=own_id, turns=turns)

    @property
    def takes_target(self) -> bool:
        """Whether a call may name a target: the masker was trained with targets, and this is not int8."""
        return takes_targets(self._package) and self._backend.precision != "int8"

    @overload
    def __call__(
        self, image: OneImage, *, toward: TargetLike | None = None, fidelity: bool = False
    ) -> Explanation: ...
    @overload  # an array is one image or several: its type does not tell
    def __call__(self, image: np.ndarray, *, toward: Any = None, fidelity: bool = False) -> Any: ...
    @overload
    def __call__(
        self, image: list[Any] | tuple[Any, ...], *, toward: Any = None, fidelity: bool = False
    ) -> list[Explanation]: ...

    def __call__(
        self, image: ImageLike | list[Any] | tuple[Any, ...], *, toward: Any = None, fidelity: bool = False
    ) -> Explanation | list[Explanation]:
        """Explain one image, or several: which pixels its embedding comes from, or which look like a target.

        Args:
            image: a path, bytes, a PIL image or a uint8 array (see `runtime.media.geometry.load_image`); a
                list or tuple of these, sizes may differ; or a uint8 array (N, H, W, 3).
            toward: the target: an embedding, float (D,), an image, or an explanation.  For N images, a list
                of N or a float array (N, D) gives each its own target.  The mask is the smallest region whose
                embedding is like the target's; it is empty where the image shows nothing of the target
                (`Explanation.absent`).  None, or a vector of zeros, means the image's own embedding.
            fidelity: also embed what each mask keeps, for `Explanation.fidelity`; this doubles the time.

        Returns:
            One `Explanation`; for a list, a tuple or an array with four axes, a list of them in order.

        Raises:
            InputError: an image that cannot be used (in a list, its position is named), or an empty list; a
                target that cannot be used, or any target if the package's masker takes none.
            BackendError: the run failed, the explainer is closed, or no engine here takes targets.
        """
        self._turns.check()
        given: Any = image
        if is_several(given):
            targets = self._targets(toward, len(given))
            prepared = (self._prepare.numbered(one, i) for i, one in enumerate(given))
            size = self._runs.max_batch(targets=targets is not None)
            return self._runs.explain_all(prepared, size=size, targets=targets, fidelity=fidelity)
        targets = self._targets(toward, None)
        return self._runs.explain([self._prepare(given)], targets=targets, fidelity=fidelity)[0]

    def target(self, toward: TargetLike) -> np.ndarray:
        """Turn a target (the `toward` of a call) into a vector, float32 (D,), and open what takes targets.

        Raises:
            InputError: a target that cannot be used, or any target if the package's masker takes none.
            BackendError: a run failed, the explainer is closed, or no engine here takes targets.
        """
        self._turns.check()
        return self._runs.targets(toward, None, embed=self._embedding)[0]

    def compare(self, a: ImageLike, b: ImageLike, *, toward: bool = True) -> Comparison:
        """Explain two images, each toward the other, and measure how much of the match the masks keep.

        Args:
            toward: False explains each image by itself, as does a masker that takes no target.

        Raises:
            InputError: an image that cannot be used.
            BackendError: a run failed, the explainer is closed, or no engine here takes targets.
        """
        self._turns.check()
        toward = toward and self.takes_target
        if toward:
            self._runs.open_for_targets()
        pair = [self._prepare.numbered(image, i) for i, image in enumerate((a, b))]
        size = min(2, self._runs.max_batch(targets=True))
        one, other = self._runs.explain_all(pair, size=size, fidelity=not toward)
        if toward:
            targets = np.stack([other.embedding, one.embedding])
            one, other = self._runs.explain_all(pair, size=size, targets=targets, fidelity=True)
        exchanged = [
            self._runs.explain([p._replace(fitted=self._runs.shown(p, e))])[0].embedding
            for p, e in zip(pair, (other, one), strict=True)
        ]
        return Comparison(a=one, b=other, exchanged=(exchanged[0], exchanged[1]))

    def against(self, bank: str | os.PathLike[str] | Bank, *, false_alarms: float = FALSE_ALARMS) -> Watch:
        """Make a `Watch`, which compares images with a bank of normal ones and finds what is anomalous.

            watch = explainer.against("line1.bank")
            found = watch("part.jpg")

        The watch computes on the CPU, in float32, whatever this explainer's backend, and stays open when the
        explainer is closed.

        Args:
            bank: a file that `nemu bank` wrote, or what `fit_bank` returned.
            false_alarms: share of normal images that may be called anomalous; see `Bank.threshold`.

        Raises:
            InputError: no such file, a bank of another package, or a share outside [0, 1).
            SchemaError, IntegrityError: as `Bank.load`.
            PackageError: the package was built without local features.
        """
        self._turns.check()
        order = self._prepare.channel_order
        opened = bank if isinstance(bank, Bank) else Bank.load(bank)
        return Watch(self._package, opened, channel_order=order, false_alarms=false_alarms)

    def stream(
        self, frames: Iterable[ImageLike], *, toward: TargetLike | None = None, fidelity: bool = False
    ) -> Generator[Explanation, None, None]:
        """Explain frames one by one, lazily and in order; `toward` (one for all) and `fidelity` as in a call.

        While you work on one explanation (its `mask`, `overlay` and `save` are computed when you ask), one
        thread runs the next frame, and another takes the frame after that from `frames` and prepares it.  So
        `frames` is read two ahead, in that thread.  An array is copied when it is taken: a camera may reuse
        its buffer.  An exception of `frames` or of a frame is raised where its explanation would have come,
        and ends the stream.  Closing the iterator stops both threads, after the run and the frame that they
        are waiting for.

        With an engine on a GPU, `frames` is read three ahead, and a frame that has arrived already is handed
        to the GPU while the GPU still computes the frame before it.
        """
        self._turns.check()
        backend, targets = self._backend, self._targets(toward, None)
        launch = None
        if isinstance(backend, PipelinedBackend) and targets is None and not fidelity:
            launch = partial(self._runs.launch, backend)  # fidelity's second run needs the first one's mask
        return stream(
            iter(frames),
            prepare=self._prepare,
            explain=lambda one: self._runs.explain([one], targets=targets, fidelity=fidelity)[0],
            launch=launch,
        )

    def run_device(self, array: Any, *, stream: Any = None) -> DeviceExplanation:
        """Explain images that are on the GPU already; embedding and mask stay there.

        The host does not wait: the work is enqueued and the call returns.

        Args:
            array: of PyCUDA, CuPy, torch or any other library with DLPack or the CUDA array interface:
                uint8 (N, height, width, 3) RGB of the graph's size (`manifest.input`), C-contiguous, on the
                engine's device.  Do not write to it before the outputs are there.
            stream: a stream of the same library, or a `cudaStream_t` as a number.  The images are read after
                the work that this stream has so far, and work that is enqueued on it later finds the
                outputs.  Without it, the stream that the array names is used, or the default stream.

        Raises:
            InputError: an array of another kind, or on another device.
            BackendError: the backend has no device, the run failed, or the explainer is closed.
        """
        backend = self._device_backend()
        with self._turns:
            embedding, mask = backend.run_device(array, stream)
        return DeviceExplanation(embedding=embedding, mask=mask, embedding_id=self._embedding_id)

    def warm_up(self, *, on_device: bool = False, toward: bool = False) -> None:
        """Do now what would make the first frames slow: load and compile kernels, record CUDA graphs.

        An engine prepares for one image, for a full batch, for the sizes between, and for `stream`.  Without
        this call each is prepared at its first use, and what is never used takes no memory.

        Args:
            on_device: prepare `run_device`, not runs of images on the host.
            toward: prepare the backend that takes targets as well.

        Raises:
            BackendError: a run failed, the explainer is closed, or the backend has no device.
        """
        if on_device:
            self._device_backend()
        with self._turns:
            if isinstance(self._backend, WarmBackend):
                self._backend.warm_up(on_device=on_device)
            else:
                self._backend.run(self._prepare.black())
        if toward:
            backend = self._runs.open_for_targets()
            with self._turns:
                zeros = np.zeros((1, self.manifest.encoder.dimension), np.float32)
                backend.run_toward(self._prepare.black(), zeros)

    def _close_backends(self) -> None:
        self._runs.close()

    def _targets(self, toward: Any, n: int | None) -> np.ndarray | None:
        """float32 (n, D), see `Runs.targets`; None without targets."""
        return None if toward is None else self._runs.targets(toward, n, embed=self._embedding)

    def _embedding(self, image: ImageLike) -> np.ndarray:
        return self._runs.explain([self._prepare(image)])[0].embedding

    def _device_backend(self) -> DeviceBackend:
        backend: Any = self._backend
        if hasattr(backend, "run_device"):  # in every frame: `isinstance` would take microseconds
            return backend
        raise BackendError(
            f"run_device with {backend.name}, which runs on the host",
            expected="a backend on a GPU",
            cure="open the Explainer with backend='tensorrt', or call it with an array of the host",
        )
