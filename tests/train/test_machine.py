"""Workers and precision, by what the machine has."""

from __future__ import annotations

import logging
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from runtime.errors import InputError
from train.machine import check_precision, default_workers, keep_memory

GB = 2**30
ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("cpus", "gpu", "processes", "room", "expected"),
    [
        (1, False, 1, GB, 0),
        (2, False, 1, GB, 1),
        (64, False, 1, GB, 1),
        (64, False, 64, GB, 0),
        (2, True, 1, GB, 1),
        (6, True, 1, GB, 5),
        (64, True, 1, GB, 8),
        (16, True, 4, GB, 3),
        (64, True, 1, 64 * 2**20, 3),  # a container that was given no more, batches of 32 at 224
        (64, True, 1, 0, 0),
    ],
)
def test_workers(monkeypatch, tmp_path, cpus, gpu, processes, room, expected):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cpus)))
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr("train.machine.SHARED_MEMORY", tmp_path)
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=room))
    assert default_workers(batch_bytes=32 * 224 * 224 * 3, processes=processes) == expected


FAULTS = """
import resource, numpy as np
from train.machine import keep_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(48 << 20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
once = faults()
keep_memory()
np.ones(48 << 20, np.uint8)
print(once, faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="it is glibc that is told")
def test_memory_that_was_freed_is_used_again():
    command = [sys.executable, "-c", FAULTS]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    before, after = map(int, ended.stdout.split())
    assert after < before / 10


def test_another_libc_is_left_alone(monkeypatch):
    monkeypatch.setattr("ctypes.CDLL", lambda _: SimpleNamespace())
    assert not keep_memory()


def test_shared_memory_of_another_kind_does_not_count(monkeypatch, tmp_path):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)))
    monkeypatch.setattr("train.machine.SHARED_MEMORY", tmp_path / "none")
    assert default_workers(batch_bytes=2**60) in (1, 3)


def bfloat16(monkeypatch, *, cpu, gpu=False):
    monkeypatch.setattr("torch.cuda.is_available", lambda: gpu)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: cpu)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)


def test_emulated_bfloat16_is_said_at_the_start(monkeypatch, caplog):
    bfloat16(monkeypatch, cpu=False)
    check_precision("bf16-mixed")
    assert "emulated" in caplog.text


@pytest.mark.parametrize(
    ("precision", "cpu", "gpu"),
    [
        ("32-true", False, False),
        ("bf16-mixed", True, False),
        ("bf16-mixed", False, True),
        ("16-mixed", False, True),
    ],
)
def test_a_supported_precision_gives_no_warning(monkeypatch, caplog, precision, cpu, gpu):
    bfloat16(monkeypatch, cpu=cpu, gpu=gpu)
    with caplog.at_level(logging.DEBUG):
        check_precision(precision)
    assert not caplog.records


def test_float16_without_a_gpu_is_refused(monkeypatch):
    bfloat16(monkeypatch, cpu=True)
    with pytest.raises(InputError, match="32-true"):
        check_precision("16-mixed")
