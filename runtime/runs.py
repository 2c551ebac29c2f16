"""Runs of a package's backends: prepared images and targets in, explanations out; also as a stream."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from runtime.backends.base import Backend, PipelinedBackend, TargetBackend
from runtime.backends.choice import toward_backend
from runtime.errors import BackendError, InputError
from runtime.explanation import Explanation
from runtime.media.geometry import ImageLike
from runtime.media.occlusion import occlude
from runtime.opened_package import Prepared, Preparer, Turns, batch_of
from runtime.package.folder import Package

TargetLike = ImageLike | Explanation
"""A float array (D,) is an embedding, a uint8 array an image."""


class Runs:
    """Runs prepared images through a backend, one thread at a time, and makes explanations of the outputs.

    Args:
        backend: of the package; it is closed by `close`.
        device: number of the GPU.
        embedding_id: of the explanations.
        turns: the lock that every run holds.
    """

    def __init__(
        self, package: Package, backend: Backend, *, device: int, embedding_id: str, turns: Turns
    ) -> None:
        self._package = package
        self._backend = backend
        self._device = device
        self._embedding_id = embedding_id
        self._turns = turns
        self.for_targets: TargetBackend | None = None
        """The backend that takes targets; opened when a target is first asked for."""

    def open_for_targets(self) -> TargetBackend:
        """Open the backend that takes targets, unless it is open.

        Raises:
            InputError: the package's masker takes no targets.
            BackendError: closed, or no engine here takes targets.
        """
        with self._turns:
            if self.for_targets is None:
                self.for_targets = toward_backend(self._package, self._backend, self._device)
            return self.for_targets

    def targets(self, toward: Any, n: int | None, *, embed: Callable[[ImageLike], np.ndarray]) -> np.ndarray:
        """Make target vectors, float32 (n, D), one for each of n images; opens the backend that takes them.

        Args:
            toward: a `TargetLike`, used for all n images; or a list or tuple of n, or a float array (n, D).
            n: number of images; None for a call with a single image, which takes a single target.
            embed: image → its embedding, (D,).

        Raises:
            InputError: another number, dtype, dimension or id, a value that is not finite, an image that
                cannot be used, or any target if the package's masker takes none.
            BackendError: as `open_for_targets`, or a run failed.
        """
        self.open_for_targets()
        several = isinstance(toward, (list, tuple)) or (_is_float(toward) and toward.ndim == 2)
        if not several:
            return np.repeat(self._target(toward, embed)[None], n or 1, axis=0)
        if n is None or len(toward) != n:
            raise InputError(
                f"{len(toward)} targets for {n or 1} image{'s' * (n not in (None, 1))}",
                expected="one target for all of them"
                + ", or one for each in the same order" * (n is not None),
                cure="give a list of as many targets as images, or a single one",
            )
        return np.stack([self._target(one, embed) for one in toward])

    def _target(self, toward: Any, embed: Callable[[ImageLike], np.ndarray]) -> np.ndarray:
        if isinstance(toward, Explanation):
            if toward.embedding_id != self._embedding_id:
                raise InputError(
                    f"a target of embedding id {toward.embedding_id}",
                    expected=self._embedding_id,
                    cure="explain it with the same package and precision",
                )
            return toward.embedding
        if not _is_float(toward):
            return embed(toward)
        dimension = self._package.manifest.encoder.dimension
        if toward.shape != (dimension,) or not np.isfinite(toward).all():
            odd = "" if toward.shape != (dimension,) else ", with values that are not finite"
            raise InputError(
                f"a target {toward.dtype} {toward.shape}{odd}",
                expected=f"float32 ({dimension},), finite: an embedding of this package",
                cure="give an embedding that this package made; images are uint8 arrays, paths or bytes",
            )
        return toward.astype(np.float32)

    def max_batch(self, *, targets: bool) -> int:
        """The most images that one run takes, with or without targets."""
        most = self._backend.max_batch
        return min(most, self.for_targets.max_batch) if targets and self.for_targets else most

    def explain(
        self, prepared: Sequence[Prepared], *, targets: np.ndarray | None = None, fidelity: bool = False
    ) -> list[Explanation]:
        """Explain at most `max_batch` images in one run.

        Args:
            targets: float32 (N, D), one for each; after `open_for_targets`.
            fidelity: run what each mask keeps as well, for `Explanation.fidelity`.

        Raises:
            BackendError: the run failed, or closed.
        """
        batch = batch_of(prepared)
        with self._turns:
            started = time.perf_counter()
            if targets is None or self.for_targets is None:
                outputs = self._backend.run(batch)
            else:
                outputs = self.for_targets.run_toward(batch, targets)
            milliseconds = 1e3 * (time.perf_counter() - started)
            explanations = self._explanations(prepared, outputs, milliseconds, targets)
            if not fidelity:
                return explanations
            kept = [self.shown(p, e) for p, e in zip(prepared, explanations, strict=True)]
            masked = self._backend.run(np.stack(kept))[0]
        return [replace(e, masked_embedding=m) for e, m in zip(explanations, masked, strict=True)]

    def explain_all(
        self, prepared: Iterable[Prepared], *, size: int, targets: np.ndarray | None = None, fidelity: bool
    ) -> list[Explanation]:
        """Explain any number of images, `size` (at most `max_batch`) in a run; arguments as of `explain`."""
        found: list[Explanation] = []
        coming = iter(prepared)
        while chunk := list(islice(coming, size)):
            asked = None if targets is None else targets[len(found) : len(found) + len(chunk)]
            found += self.explain(chunk, targets=asked, fidelity=fidelity)
        return found

    def launch(self, backend: PipelinedBackend, prepared: Prepared) -> Callable[[], Explanation]:
        """Start the run of one image; the returned function waits for its explanation.

        Args:
            backend: the one that `Runs` was given, known to be pipelined.
        """
        with self._turns:
            started = time.perf_counter()
            wait = backend.submit(batch_of([prepared]))

        def finish() -> Explanation:
            with self._turns:
                outputs = wait()
            return self._explanations([prepared], outputs, 1e3 * (time.perf_counter() - started))[0]

        return finish

    def shown(self, prepared: Prepared, explanation: Explanation) -> np.ndarray:
        """uint8 (height, width, 3): what the explanation's mask keeps of an image, on the graph's grid."""
        return occlude(prepared.fitted, explanation.graph_mask, self._package.manifest.input.mean)

    def close(self) -> None:
        """Close both backends; may be called again."""
        try:
            self._backend.close()
        finally:
            if self.for_targets is not None:
                self.for_targets.close()

    def _explanations(
        self,
        prepared: Sequence[Prepared],
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
                cure="nemu verify PACKAGE",
            )
        return [
            Explanation(
                embedding=embedding[i],
                graph_mask=mask[i],
                placement=one.placement,
                image=one.original,
                embedding_id=self._embedding_id,
                timing={"preprocess": one.milliseconds, **timing},
                **self._asked(None if targets is None else targets[i]),
            )
            for i, one in enumerate(prepared)
        ]

    def _asked(self, target: np.ndarray | None) -> dict[str, Any]:
        """Target and curve of an explanation; a target of zeros means the image itself."""
        manifest = self._package.manifest
        if target is None or not target.any():
            return {"curve": manifest.level}
        return {"target": target, "curve": None if manifest.target is None else manifest.target.level}


def _is_float(toward: Any) -> bool:
    return isinstance(toward, np.ndarray) and np.issubdtype(toward.dtype, np.floating)


def stream(
    frames: Iterator[Any],
    *,
    prepare: Preparer,
    explain: Callable[[Prepared], Explanation],
    launch: Callable[[Prepared], Callable[[], Explanation]] | None,
) -> Generator[Explanation, None, None]:
    """Explain frames in order, see `runtime.explainer.Explainer.stream`.

    Args:
        frames: read and prepared in a thread of their own.
        prepare: prepares one frame.
        explain: explains one prepared frame, in a second thread.
        launch: starts that and returns a function that waits for the result; None if the backend can have
            one run at a time only.
    """
    from concurrent.futures import Future, ThreadPoolExecutor  # 10 ms that other callers need not spend

    launched: list[Callable[[], Explanation]] = []

    def run(taken: Future[Prepared | None], following: Future[Prepared | None]) -> Explanation | None:
        if (prepared := taken.result()) is None:
            return None
        if launch is None:
            return explain(prepared)
        finish = launched.pop() if launched else launch(prepared)
        # Only a frame that has arrived: a slow camera must not delay the explanation before it.
        if following.done() and not following.exception() and (ahead := following.result()) is not None:
            launched.append(launch(ahead))
        return finish()

    coming = (prepare(frame.copy() if isinstance(frame, np.ndarray) else frame) for frame in frames)
    camera, engine = (ThreadPoolExecutor(1, f"nemu-stream-{name}") for name in ("camera", "engine"))
    try:
        # `next` gives None after the last frame, and after a failure.
        taken = deque(camera.submit(next, coming, None) for _ in range(3 if launch else 2))
        running = engine.submit(run, taken.popleft(), taken[0])
        while (explanation := running.result()) is not None:
            taken.append(camera.submit(next, coming, None))
            running = engine.submit(run, taken.popleft(), taken[0])
            yield explanation
    finally:
        camera.shutdown(cancel_futures=True)
        engine.shutdown(cancel_futures=True)
