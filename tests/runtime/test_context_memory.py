"""A context whose memory is ours, where TensorRT does not take it: it is made again with its own."""

from __future__ import annotations

from collections.abc import Callable

import fake_tensorrt
import numpy as np
import pytest
from fake_gpu import Gpu

from runtime.backends import tensorrt
from runtime.package import Package


def no_size(context: object) -> int:
    return 0


def refuse(context: fake_tensorrt.IExecutionContext, memory: int, size: int) -> None:
    context._log.log(fake_tensorrt.Severity.ERROR, "invalid device memory")


@pytest.mark.parametrize(
    ("call", "instead"), [("update_device_memory_size_for_shapes", no_size), ("set_device_memory", refuse)]
)
def test_memory_that_the_library_does_not_take_is_its_own_again(
    toy: Package,
    add: Callable[..., None],
    gpu: Gpu,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    instead: Callable,
) -> None:
    monkeypatch.setattr(fake_tensorrt.IExecutionContext, call, instead)
    add(toy, "toy")
    backend = tensorrt.open_backend(toy)
    assert backend._lanes["least"]._context.memory is None
    assert any("memory of the largest batch for 1 image(s)" in line for line in backend.load_log)
    images = np.full((1, 4, 6, 3), 7, np.uint8)
    assert backend.run(images)[0].shape[0] == 1
    backend.close()
    assert not gpu.live()
