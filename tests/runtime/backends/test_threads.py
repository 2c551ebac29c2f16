"""The arithmetic of threads, on machines made of files."""

from __future__ import annotations

import os

import pytest

from runtime.backends.choice import choose
from runtime.backends.threads import thread_count
from runtime.errors import InputError


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """`machine(cpus, siblings=2, files={...})`: threads on it; the CPUs are those this process may use."""
    monkeypatch.delenv("NEMU_THREADS", raising=False)

    def threads(cpus, *, siblings=1, files=()):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(cpus), raising=False)
        for cpu in cpus if siblings else ():
            folder = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
            folder.mkdir(parents=True)
            (folder / "thread_siblings_list").write_text(f"core {cpu // siblings}\n")
        for name, text in dict(files).items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return thread_count(tmp_path)

    return threads


@pytest.mark.parametrize(
    ("cpus", "siblings", "expected"),
    [
        (range(1), 1, 1),
        (range(2), 1, 2),
        (range(8), 2, 4),  # hyperthreads
        (range(64), 1, 16),
        (range(64), 2, 16),
        ([0, 2, 4], 2, 3),  # taskset: one CPU of each core
        ([6, 7], 2, 1),  # taskset: one core
        (range(4), 0, 4),  # a kernel that does not tell
    ],
)
def test_usable_physical_cores_up_to_sixteen(machine, cpus, siblings, expected):
    assert machine(cpus, siblings=siblings) == expected


@pytest.mark.parametrize(
    ("groups", "files", "expected"),
    [
        ("0::/", {"cpu.max": "200000 100000"}, 2),
        ("0::/", {"cpu.max": "150000 100000"}, 2),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/", {"cpu.max": "max 100000"}, 8),
        ("0::/", {"cpu.max": "9900000 100000"}, 8),
        ("0::/a/b", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "400000 100000"}, 3),  # the parent's too
        (
            "3:cpuset:/\n2:cpu,cpuacct:/host/path\n0::/",
            {"cpu,cpuacct/cpu.cfs_quota_us": "250000", "cpu,cpuacct/cpu.cfs_period_us": "100000"},
            3,
        ),
        ("1:cpu:/", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 8),
    ],
)
def test_the_quota_of_the_control_group_rounded_up(machine, groups, files, expected):
    limits = {f"sys/fs/cgroup/{name}": f"{text}\n" for name, text in files.items()}
    assert machine(range(8), files={"proc/self/cgroup": f"{groups}\n", **limits}) == expected


def test_the_users_number_wins_and_reaches_the_backend(machine, tiny, monkeypatch):
    assert machine(range(2)) == 2
    monkeypatch.setenv("NEMU_THREADS", "3")
    assert thread_count() == 3
    backend = choose(tiny, "onnxruntime")
    assert backend.why.endswith("3 threads")
    assert backend._session.get_session_options().intra_op_num_threads == 3


@pytest.mark.parametrize("wrong", ["0", "-1", "two", "1.5", " 2"])
def test_an_invalid_thread_number_is_refused(wrong, tiny, monkeypatch):
    monkeypatch.setenv("NEMU_THREADS", wrong)
    with pytest.raises(InputError, match="NEMU_THREADS"):
        choose(tiny, "onnxruntime")
