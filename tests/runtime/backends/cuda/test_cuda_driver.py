"""The tests of CUDA again, over NVIDIA's own cuda-bindings: in a process where `fake_cuda` is the driver.

What the fake of the bindings cannot tell is found here: the order, sizes and types of arguments.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

from runtime.backends import cuda
from runtime.backends.cuda.bindings import _module
from tests.runtime import fake_cuda

HERE = Path(__file__).parent
COMPILER = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
LIBCUDA = """
static int (*find)(const char *, void **, int, unsigned long long, int *);
void fake(void *given) { find = given; }
int cuGetProcAddress_v2(const char *name, void **found, int version, unsigned long long flags, int *status) {
    return find(name, found, version, flags, status);
}
"""
TYPES = {
    "b": ctypes.c_ubyte,
    "i": ctypes.c_int,
    "u": ctypes.c_uint,
    "l": ctypes.c_uint64,
    "c": ctypes.c_char,
    "p": ctypes.c_void_p,
    "s": ctypes.c_char_p,
}
ATTRIBUTES = {1: ctypes.c_uint64, 2: ctypes.c_uint, 8: ctypes.c_bool, 9: ctypes.c_int}
"""The types of `CUpointer_attribute` in C."""
NOT_FOUND, UNKNOWN = 500, 999
OLDEST = 12000
"""The CUDA whose functions the driver has, none newer."""


class Libcuda:
    """The functions of libcuda, by their names; each calls the newest `FakeDriver`."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.driver: fake_cuda.FakeDriver | None = None
        self.called: set[str] = set()
        self.given: list[object] = []  # texts whose address C has
        self.functions = {name: self.function(name, types) for name, (types, _) in fake_cuda.CALLS.items()}
        self.functions["cuGetProcAddress"] = library.cuGetProcAddress_v2
        types = ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p), ctypes.c_int, ctypes.c_uint64
        self.found = ctypes.CFUNCTYPE(ctypes.c_int, *types, ctypes.c_void_p)(self.find)
        library.fake(self.found)

    def find(self, name: bytes, found, version: int, flags: int, status: int | None) -> int:
        known = self.functions if version <= OLDEST else {}
        function = known.get(name.decode().removesuffix("WithFlags"))
        found[0] = ctypes.cast(function, ctypes.c_void_p) if function else None
        return 0 if function else NOT_FOUND

    def function(self, name: str, signature: str):
        ways, letters = zip(*((word[:-1], word[-1]) for word in signature.split()), strict=True)

        def call(*arguments):
            self.called.add(name)
            pairs = [*zip(ways, arguments, strict=True)]
            taken = [argument[0] if way == "&" else argument for way, argument in pairs if way != "*"]
            if name == "cuPointerGetAttributes":
                taken[1] = (ctypes.c_int * taken[0]).from_address(taken[1])
            try:
                error, *answer = getattr(self.driver, name)(*taken)
            except BaseException:  # noqa: BLE001
                traceback.print_exc()
                return UNKNOWN
            outs = [argument for way, argument in pairs if way]
            if answer and not error:
                self.give(*outs, *answer, *taken[1:2])
            elif "*i" in signature:
                outs[0][0] = 0  # cuda-bindings 12 read it after an error too
            return int(error)

        types = [ctypes.POINTER(TYPES[c]) if way else TYPES[c] for way, c in zip(ways, letters, strict=True)]
        return ctypes.CFUNCTYPE(ctypes.c_int, *types)(call)

    def give(self, out, answer, kinds=()) -> None:
        """Write what a call gives where its caller wants it."""
        self.given.append(answer)
        if isinstance(answer, (list, tuple)):
            for place, kind, value in zip(out[: len(answer)], kinds, answer, strict=True):
                ATTRIBUTES[kind].from_address(place).value = value
        elif isinstance(out, ctypes.POINTER(ctypes.c_char)):
            ctypes.memmove(out, answer, len(answer))
        else:
            out[0] = answer


def main() -> int:
    """Run the tests of `test_cuda.py` for cuda-bindings; prints what they called of libcuda."""
    libcuda, real = Libcuda(ctypes.CDLL("libcuda.so.1")), _module()
    made = fake_cuda.FakeDriver

    def served(*arguments, **attributes):
        libcuda.driver = made(*arguments, **attributes)
        return real

    fake_cuda.FakeDriver = served
    code = pytest.main(["-q", "-k", "not pycuda and not without_a_driver", str(HERE / "test_cuda.py")])
    print("called:", *sorted(libcuda.called))
    return code


@pytest.mark.skipif(not cuda.installed("cuda.bindings"), reason="cuda-bindings is not installed")
@pytest.mark.skipif(sys.platform != "linux", reason="the stand-in is libcuda.so.1")
@pytest.mark.skipif(COMPILER is None, reason="no C compiler: neither cc, gcc nor clang")
def test_every_call_over_the_real_bindings(tmp_path):
    (tmp_path / "libcuda.c").write_text(LIBCUDA)
    compile_ = [COMPILER, "-shared", "-fPIC", "-o", "libcuda.so.1", "libcuda.c"]
    subprocess.run(compile_, cwd=tmp_path, check=True)
    path = os.pathsep.join((str(HERE.parents[3]), os.environ.get("PYTHONPATH", "")))
    there = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": path}
    command = [sys.executable, __file__]
    answer = subprocess.run(command, env=there, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    called = answer.stdout.rpartition("called:")[2].split()
    assert called == sorted(fake_cuda.CALLS)


if __name__ == "__main__":
    sys.exit(main())
