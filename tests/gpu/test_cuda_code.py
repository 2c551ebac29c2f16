"""Our CUDA code on a GPU, without TensorRT: the runtime runs a stand-in engine of real kernels.

python -m pytest -m gpu tests/gpu/test_cuda_code.py
NEMU_GPU_FEW=1      small images, few times: does everything run?
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from benchmarks.gpu.bench import Bench, Effort
from benchmarks.gpu.cuda_checks import CHECKS
from benchmarks.gpu.kernels import Kernels
from runtime.backends import cuda
from runtime.errors import BackendUnavailable

pytestmark = pytest.mark.gpu
FEW = Effort(side=96, opens=20, calls=200, device_calls=50, timed=200, repeats=2)


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    try:
        gpu = cuda.device(0)
        with cuda.implementation().current(0):
            kernels = Kernels(gpu.compute_capability)
    except BackendUnavailable as error:
        pytest.skip(error.came)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("tensorrt", "tensorrt_rtx"):  # the bench puts its stand-in there
            patch.setitem(sys.modules, name, None)
        yield Bench(kernels, gpu, FEW if os.environ.get("NEMU_GPU_FEW") else Effort())


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_cuda_code(bench: Bench, check: Callable[[Bench], dict[str, Any]], record_property) -> None:
    facts = check(bench)
    for name, value in facts.items():
        record_property(name, value)
    assert facts.get("passed", True), facts["detail"]
