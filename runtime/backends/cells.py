"""onnxruntime on `model.cells.onnx`: embedding and local features, for banks of normal images."""

from __future__ import annotations

import numpy as np

from runtime.backends.base import check_images
from runtime.backends.onnxruntime import CELLS, CELLS_MODEL, open_session
from runtime.errors import BackendError, PackageError
from runtime.package.folder import Package
from runtime.package.manifest import OUTPUTS
from runtime.package.reasons import sentence

PRECISION = "fp32"


class CellsBackend:
    """Runs one image at a time, on the CPU, in float32.  No engine computes local features.

    Raises:
        PackageError: the package was built without `model.cells.onnx`.
        BackendUnavailable, BackendError: as for `OnnxRuntimeBackend`.
    """

    def __init__(self, package: Package) -> None:
        if CELLS_MODEL not in package.manifest.files:
            why = package.manifest.refused.get("cells", "it was built by an older version")
            raise PackageError(
                f"{package.path} has no {CELLS_MODEL}: {sentence(why)}",
                expected="a package with local features, which a bank of normal images needs",
                cure="build the package again: nemu build --masker … --out NAME.nemu",
            )
        self._input = package.manifest.input
        self._session = open_session(package.file(CELLS_MODEL))

    def run(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """uint8 (height, width, 3) → embedding float32 (D,), cells float32 (C, h, w).

        Raises:
            InputError: an image of another dtype or shape.
            BackendError: the run failed.
        """
        batch = check_images(image[None], height=self._input.height, width=self._input.width, max_batch=1)
        try:
            embedding, cells = self._session.run([OUTPUTS[0], CELLS], {self._input.name: batch})
        except Exception as error:  # its exceptions share no base but this
            raise BackendError(
                f"onnxruntime failed on {CELLS_MODEL}: {error}",
                expected=f"the outputs {OUTPUTS[0]} and {CELLS}",
                cure="free memory if it says so; otherwise: nemu verify PACKAGE",
            ) from error
        return embedding[0], cells[0]
