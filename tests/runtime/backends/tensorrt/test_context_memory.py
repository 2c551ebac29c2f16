"""A context whose given memory TensorRT refuses is made again with the library's own memory."""

from __future__ import annotations

import pytest

from tests.runtime import fake_tensorrt
from tests.runtime.engine_outputs import check_outputs, random_images


def no_size(context: object) -> int:
    return 0


def refuse(context: fake_tensorrt.IExecutionContext, memory: int, size: int) -> None:
    context._log.log(fake_tensorrt.Severity.ERROR, "invalid device memory")


@pytest.mark.parametrize(
    ("call", "instead"), [("update_device_memory_size_for_shapes", no_size), ("set_device_memory", refuse)]
)
def test_refused_memory_is_replaced_by_the_librarys(open_toy, monkeypatch, call, instead):
    monkeypatch.setattr(fake_tensorrt.IExecutionContext, call, instead)
    backend = open_toy()
    assert backend._lanes["least"]._context.memory is None
    assert any("memory of the largest batch for 1 image(s)" in line for line in backend.load_log)
    check_outputs(random_images(1), backend.run(random_images(1)))
