"""The gate lets equal things pass and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from export.graph.gate import gate
from runtime.errors import ParityError
from runtime.package.folder import Package
from runtime.package.reference import load_reference


@pytest.fixture(scope="module")
def reference(package):
    return load_reference(Package.open(package))


def test_the_same_outputs_pass_and_the_control_fails(reference):
    parity = gate(reference, "itself", reference.embedding, reference.mask, precision="fp32")
    assert parity.embedding_error == 0
    assert parity.mask_iou == 1
    assert parity.control_failed


def test_another_images_outputs_do_not_pass(reference):
    with pytest.raises(ParityError, match="embedding error") as caught:
        gate(reference, "rolled", np.roll(reference.embedding, 1, 0), reference.mask, precision="fp16")
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(("precision", "shift"), [("fp32", 2e-4), ("fp16", 0.2)])
def test_a_mask_that_moved_does_not_pass(reference, precision, shift):
    moved = np.clip(reference.mask + np.where(reference.mask > 0.4, -shift, shift), 0, 1).astype(np.float32)
    with pytest.raises(ParityError, match="mask"):
        gate(reference, "moved", reference.embedding, moved, precision=precision)
