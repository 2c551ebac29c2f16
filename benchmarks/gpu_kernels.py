"""Two CUDA kernels of our own, so that the runtime's way to the GPU can be checked without any TensorRT.

    mask[n, y, x]   = w / 2048,  w = red + 2 green + 4 blue
    embedding[n, k] = the sum of w over the pixels whose number is k modulo 8, / 65536

All of it is whole numbers below 2^24 divided by powers of two, for up to 65536 pixels: exact in float32, in
any order, so that numpy's answer is the GPU's to the last bit.
"""

from __future__ import annotations

import ctypes
import importlib
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from runtime.errors import BackendError, BackendUnavailable

DIMENSION = 8
SOURCE = r"""
extern "C" __global__ void infer(const unsigned char* image, float* embedding, float* mask,
                                 int pixels, long long spin) {
    __shared__ int sums[256];
    long long until = clock64() + spin;
    while (clock64() < until) {}
    long long first = (long long)blockIdx.y * pixels;
    int sum = 0;
    for (int i = blockIdx.x + gridDim.x * threadIdx.x; i < pixels; i += gridDim.x * blockDim.x) {
        const unsigned char* rgb = image + 3 * (first + i);
        int w = rgb[0] + 2 * rgb[1] + 4 * rgb[2];
        if (mask) mask[first + i] = w / 2048.0f;
        sum += w;
    }
    sums[threadIdx.x] = sum;
    __syncthreads();
    for (int half = 128; half; half /= 2) {
        if (threadIdx.x < half) sums[threadIdx.x] += sums[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0) embedding[blockIdx.y * gridDim.x + blockIdx.x] = sums[0] / 65536.0f;
}

extern "C" __global__ void wait(long long spin) {
    long long until = clock64() + spin;
    while (clock64() < until) {}
}
"""


def expected(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What `infer` gives: uint8 (N, H, W, 3) → embedding float32 (N, 8), mask float32 (N, H, W)."""
    weighted = images.astype(np.int64) @ np.array([1, 2, 4])
    flat = weighted.reshape(len(images), -1)
    sums = np.stack([flat[:, k::DIMENSION].sum(1) for k in range(DIMENSION)], 1)
    return (sums / 65536).astype(np.float32), (weighted / 2048).astype(np.float32)


class Kernels(Protocol):
    """What the check launches.  Streams and pointers are the driver's, as ints; the device is current."""

    how: str
    """How they were compiled."""

    def infer(
        self, stream: int, image: int, embedding: int, mask: int, shape: tuple[int, ...], spin: int
    ) -> None:
        """Enqueue `infer` on images of `shape` (N, H, W, 3), which computes for `spin` clock cycles first."""

    def wait(self, stream: int, spin: int) -> None:
        """Enqueue a kernel that only takes `spin` clock cycles."""

    def recording(self, stream: int) -> bool:
        """Whether the stream is being captured."""

    def forbidden(self, stream: int) -> None:
        """Do what no capture survives: wait for the stream."""

    def memory(self) -> int:
        """Bytes in use on the device, by everybody."""


class CudaKernels:
    """The kernels, compiled for one GPU.

    Args:
        capability: such as `9.0`.

    Raises:
        BackendUnavailable: no way to compile them is here; what each of them said.
    """

    def __init__(self, capability: str) -> None:
        self._driver = importlib.import_module("cuda.bindings.driver")
        code, self.how = compiled(capability)
        self._module = self._call("cuModuleLoadData", code)
        self._infer, self._wait = (
            self._call("cuModuleGetFunction", self._module, name) for name in (b"infer", b"wait")
        )

    def infer(
        self, stream: int, image: int, embedding: int, mask: int, shape: tuple[int, ...], spin: int
    ) -> None:
        """See `Kernels.infer`."""
        n, height, width, _ = shape
        pointer = ctypes.c_void_p
        types = (pointer, pointer, pointer, ctypes.c_int, ctypes.c_longlong)
        values = (image, embedding, mask, height * width, spin)
        self._launch(self._infer, (DIMENSION, n), stream, (values, types))

    def wait(self, stream: int, spin: int) -> None:
        """See `Kernels.wait`."""
        self._launch(self._wait, (1, 1), stream, ((spin,), (ctypes.c_longlong,)))

    def recording(self, stream: int) -> bool:
        """See `Kernels.recording`."""
        return bool(int(self._call("cuStreamIsCapturing", stream)))

    def forbidden(self, stream: int) -> None:
        """See `Kernels.forbidden`."""
        self._driver.cuStreamSynchronize(stream)  # answers with an error, and invalidates the capture

    def memory(self) -> int:
        """See `Kernels.memory`."""
        free, total = device_memory()
        return total - free

    def _launch(self, function: Any, grid: tuple[int, int], stream: int, arguments: Any) -> None:
        threads = 256 if function is self._infer else 1
        self._call("cuLaunchKernel", function, *grid, 1, threads, 1, 1, 0, stream, arguments, 0)

    def _call(self, name: str, *arguments: Any) -> Any:
        error, *results = getattr(self._driver, name)(*arguments)
        self._must(name, error)
        return results[0] if results else None

    @staticmethod
    def _must(name: str, error: Any) -> None:
        if int(error):
            raise BackendError(
                f"{name} failed: {getattr(error, 'name', error)}",
                expected="success",
                cure="end this process: an earlier failure may have broken its context",
            )


def device_memory() -> tuple[int, int]:
    """Bytes that are free on the current device, and all."""
    error, free, total = importlib.import_module("cuda.bindings.driver").cuMemGetInfo()
    CudaKernels._must("cuMemGetInfo", error)
    return int(free), int(total)


def compiled(capability: str) -> tuple[bytes, str]:
    """A cubin of SOURCE, and how it came about: by the first compiler that is here.

    Raises:
        BackendUnavailable: none is, or none can compile for this GPU.
    """
    arch = "sm_" + capability.replace(".", "")
    failed: list[str] = []
    for way in WAYS:
        try:
            code = way(arch)
        except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
            failed.append(f"{way.__name__}: {type(error).__name__}: {str(error)[-300:]}")
        else:
            return code, "; ".join([*failed, f"{way.__name__} compiled for {arch}"])
    raise BackendUnavailable(
        "no compiler for CUDA kernels: " + "; ".join(failed),
        expected="NVRTC (of a CUDA toolkit, or the one that torch brings), cuda-core, or nvcc",
        cure='pip install "nvidia-cuda-nvrtc", or install the CUDA toolkit',
    )


def nvrtc(arch: str) -> bytes:
    """By NVRTC through cuda-bindings."""
    library = importlib.import_module("cuda.bindings.nvrtc")

    def call(name: str, *arguments: Any) -> Any:
        error, *results = getattr(library, name)(*arguments)
        if int(error):
            raise RuntimeError(f"{name}: {error}{log()}")
        return results[0] if results else None

    def log() -> str:
        if program is None:
            return ""
        text = b" " * library.nvrtcGetProgramLogSize(program)[1]
        library.nvrtcGetProgramLog(program, text)
        return text.decode(errors="replace")

    program = None
    program = call("nvrtcCreateProgram", SOURCE.encode(), b"check.cu", 0, [], [])
    call("nvrtcCompileProgram", program, 1, [f"--gpu-architecture={arch}".encode()])
    code = b" " * call("nvrtcGetCUBINSize", program)
    call("nvrtcGetCUBIN", program, code)
    return code


def cuda_core(arch: str) -> bytes:
    """By cuda-core, whose modules moved."""
    try:
        core = importlib.import_module("cuda.core")
        program = core.Program
    except (ImportError, AttributeError):
        core = importlib.import_module("cuda.core.experimental")
        program = core.Program
    return bytes(program(SOURCE, "c++", core.ProgramOptions(arch=arch)).compile("cubin").code)


def nvcc(arch: str) -> bytes:
    """By the toolkit's compiler."""
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder) / "check.cu", Path(folder) / "check.cubin"
        source.write_text(SOURCE)
        command = ["nvcc", "-cubin", f"-arch={arch}", "-o", str(cubin), str(source)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return cubin.read_bytes()


WAYS: tuple[Callable[[str], bytes], ...] = (nvrtc, cuda_core, nvcc)
