"""Two CUDA kernels of our own, so that the runtime's use of the GPU can be checked without TensorRT.

    mask[n, y, x]   = w / 2048,  w = red + 2 green + 4 blue
    embedding[n, k] = the sum of w over the pixels whose number is k modulo 8, / 65536

All values are whole numbers below 2^24 divided by powers of two, for up to 65536 pixels.  They are exact in
float32 in any order of summation, so numpy and the GPU agree to the last bit.
"""

from __future__ import annotations

import ctypes
import importlib
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
    """Outputs of `infer`: uint8 (N, H, W, 3) → embedding float32 (N, 8), mask float32 (N, H, W)."""
    weighted = images.astype(np.int64) @ np.array([1, 2, 4])
    flat = weighted.reshape(len(images), -1)
    sums = np.stack([flat[:, k::DIMENSION].sum(1) for k in range(DIMENSION)], 1)
    return (sums / 65536).astype(np.float32), (weighted / 2048).astype(np.float32)


class Kernels:
    """The kernels, compiled for one GPU.

    Streams and pointers are the driver's own, as ints; the device is current in every call.  `how` says how
    the kernels were compiled.

    Args:
        capability: compute capability, e.g. `9.0`.

    Raises:
        BackendUnavailable: no compiler works here; the message of each is given.
    """

    def __init__(self, capability: str) -> None:
        code, self.how = compiled(capability)
        self._module = driver_call("cuModuleLoadData", code)
        self._infer, self._wait = (
            driver_call("cuModuleGetFunction", self._module, name) for name in (b"infer", b"wait")
        )

    def infer(
        self, stream: int, image: int, embedding: int, mask: int, shape: tuple[int, ...], spin: int
    ) -> None:
        """Enqueue `infer` on images of `shape` (N, H, W, 3); it first computes for `spin` clock cycles."""
        n, height, width, _ = shape
        pointer = ctypes.c_void_p
        types = (pointer, pointer, pointer, ctypes.c_int, ctypes.c_longlong)
        values = (image, embedding, mask, height * width, spin)
        self._launch(self._infer, (DIMENSION, n), 256, stream, (values, types))

    def wait(self, stream: int, spin: int) -> None:
        """Enqueue a kernel that only takes `spin` clock cycles."""
        self._launch(self._wait, (1, 1), 1, stream, ((spin,), (ctypes.c_longlong,)))

    def recording(self, stream: int) -> bool:
        """Whether the stream is being captured."""
        return bool(int(driver_call("cuStreamIsCapturing", stream)))

    def forbidden(self, stream: int) -> None:
        """Wait for the stream, which is an error during a capture and invalidates it."""
        _driver().cuStreamSynchronize(stream)

    def memory(self) -> int:
        """Bytes in use on the device, by all processes."""
        free, total = device_memory()
        return total - free

    def _launch(
        self, function: Any, grid: tuple[int, int], threads: int, stream: int, arguments: Any
    ) -> None:
        driver_call("cuLaunchKernel", function, *grid, 1, threads, 1, 1, 0, stream, arguments, 0)


def driver_call(name: str, *arguments: Any) -> Any:
    """Call a function of the CUDA driver; its result, a tuple if there are several, None if there is none.

    Raises:
        BackendError: it fails.
    """
    error, *results = getattr(_driver(), name)(*arguments)
    if int(error):
        raise BackendError(
            f"{name} failed: {getattr(error, 'name', error)}",
            expected="success",
            cure="end this process: an earlier failure may have broken its context",
        )
    return tuple(results) if len(results) > 1 else next(iter(results), None)


def device_memory() -> tuple[int, int]:
    """Free bytes and all bytes of the current device."""
    free, total = driver_call("cuMemGetInfo")
    return int(free), int(total)


def _driver() -> Any:
    return importlib.import_module("cuda.bindings.driver")


def compiled(capability: str) -> tuple[bytes, str]:
    """A cubin of SOURCE by the first compiler that works here, and a sentence that names it.

    Raises:
        BackendUnavailable: there is none, or none can compile for this GPU.
    """
    arch = "sm_" + capability.replace(".", "")
    failed: list[str] = []
    for way in COMPILERS:
        try:
            code = way(arch)
        except (ImportError, OSError, RuntimeError, subprocess.SubprocessError) as error:
            failed.append(f"{way.__name__}: {type(error).__name__}: {str(error)[-300:]}")
        else:
            return code, "; ".join([*failed, f"{way.__name__} compiled for {arch}"])
    raise BackendUnavailable(
        "no compiler for CUDA kernels: " + "; ".join(failed),
        expected="NVRTC (of a CUDA toolkit, or the one that comes with torch) or nvcc",
        cure='pip install "nvidia-cuda-nvrtc", or install the CUDA toolkit',
    )


def nvrtc(arch: str) -> bytes:
    """Compile with NVRTC, called through cuda-bindings."""
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


def nvcc(arch: str) -> bytes:
    """Compile with the CUDA toolkit's compiler."""
    with tempfile.TemporaryDirectory() as folder:
        source, cubin = Path(folder) / "check.cu", Path(folder) / "check.cubin"
        source.write_text(SOURCE)
        command = ["nvcc", "-cubin", f"-arch={arch}", "-o", str(cubin), str(source)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(done.stderr)
        return cubin.read_bytes()


COMPILERS: tuple[Callable[[str], bytes], ...] = (nvrtc, nvcc)
