"""Read which Jetson this is: its JetPack, and the TensorRT that belongs to it.

Reads files only, changes nothing and needs no root rights.  `root` is the root of the file system; tests
pass a folder of their own.  Written from public documents and other tools' findings; not yet run on a Jetson.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Carried(NamedTuple):
    """Versions that a JetPack contains."""

    tensorrt: str
    cuda: str
    python: str
    """The only Python that can import its `tensorrt` module."""


RELEASES = {
    **dict.fromkeys(("35.2.1", "35.3.1", "35.4.1", "35.5.0"), "5.1"),
    **dict.fromkeys(("35.6.0", "35.6.1", "35.6.2", "35.6.3", "35.6.4"), "5.1"),
    "36.3.0": "6.0",
    "36.4.0": "6.1",
    "36.4.2": "6.1",
    "36.4.3": "6.2",
    "36.4.4": "6.2.1",
    "36.4.7": "6.2.1",
    "36.5.0": "6.2.2",
    **dict.fromkeys(("38.2.0", "38.2.1", "38.2.2"), "7.0"),
    "38.4.0": "7.1",
    "39.0.0": "7.2 EA",
    "39.2.0": "7.2",
}
"""L4T release → JetPack."""

CARRIED = {
    "5.1": Carried("8.5.2", "11.4", "3.8"),
    "6.0": Carried("8.6.2", "12.2", "3.10"),
    "6.1": Carried("10.3.0.30", "12.6", "3.10"),
    "6.2": Carried("10.3.0.30", "12.6", "3.10"),
    "7.0": Carried("10.13.3.9", "13.0", "3.12"),
    "7.1": Carried("10.13.3.9", "13.0", "3.12"),
    "7.2": Carried("10.16.2.10", "13.2", "3.12"),
}
"""JetPack version, its first two numbers → what it contains."""


@dataclass(frozen=True, kw_only=True)
class Jetson:
    """Facts about the board; None where they cannot be read."""

    model: str | None
    l4t: str
    """For example `36.4.3`; `?` if the file has another form."""
    jetpack: str | None
    carried: Carried | None
    memory_total: int | None
    """Bytes, shared by CPU and GPU."""
    memory_free: int | None
    power_mode: str | None
    """Name of the current mode."""
    power_modes: dict[int, str]
    """Every mode of this board by its nvpmodel number."""
    clocks: dict[str, bool]
    """`CPU`, `GPU` → whether its clock is locked at its highest frequency."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """The running Python."""

    python: str
    """For example `3.10`."""
    virtual: bool
    """Whether it is a virtual environment without the system's packages."""
    tensorrt: str | None
    """Version that this Python finds, JetPack's or another; `?` if the version is not known."""
    cuda_bindings: str | None
    pycuda: str | None


def read(root: Path = Path("/")) -> Jetson | None:
    """The facts about this board; None if it is no Jetson."""
    release = system_text(root / "etc/nv_tegra_release")
    if release is None:
        return None
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", release)
    l4t = f"{found[1]}.{found[2]}" if found else "?"
    jetpack = RELEASES.get(l4t)
    meminfo = re.findall(r"(\w+): +(\d+) kB", system_text(root / "proc/meminfo") or "")
    memory = {name: 1024 * int(kilobytes) for name, kilobytes in meminfo}
    modes = re.findall(r"POWER_MODEL ID=(\d+) NAME=(\S+)", system_text(root / "etc/nvpmodel.conf") or "")
    return Jetson(
        model=system_text(root / "proc/device-tree/model"),
        l4t=l4t,
        jetpack=jetpack,
        carried=CARRIED[jetpack[:3]] if jetpack else None,
        memory_total=memory.get("MemTotal"),
        memory_free=memory.get("MemAvailable"),
        power_mode=_power_mode(),
        power_modes={int(number): name for number, name in modes},
        clocks=_clocks(root / "sys"),
    )


def environment() -> Environment:
    """The facts about the running Python."""
    config = system_text(Path(sys.prefix) / "pyvenv.cfg") or ""
    sees_system = re.search(r"include-system-site-packages *= *true", config)
    return Environment(
        python=f"{sys.version_info.major}.{sys.version_info.minor}",
        virtual=sys.prefix != sys.base_prefix and not sees_system,
        tensorrt=version("tensorrt") or ("?" if importlib.util.find_spec("tensorrt") else None),
        cuda_bindings=version("cuda-bindings"),
        pycuda=version("pycuda"),
    )


def highest_mode(modes: dict[int, str]) -> int | None:
    """Number of the mode with the most power; not always 0 (Orin Nano Super: MAXN_SUPER is 2)."""

    def power(item: tuple[int, str]) -> tuple[bool, bool, int]:
        watts = re.search(r"(\d+)W", item[1])
        return "MAXN_SUPER" in item[1], "MAXN" in item[1], int(watts[1]) if watts else 0

    return max(modes.items(), key=power)[0] if modes else None


def _clocks(sys_folder: Path) -> dict[str, bool]:
    """Whether each clock is locked: its lowest allowed frequency is the highest that exists."""
    held = {}
    cpus = [
        (policy / "scaling_min_freq", policy / "cpuinfo_max_freq")
        for policy in (sys_folder / "devices/system/cpu").glob("cpu[0-9]*/cpufreq")
    ]
    gpus = [
        (device / "min_freq", device / "max_freq")
        for device in (sys_folder / "class/devfreq").glob("*")
        if re.search(r"\.gpu$|\.ga10b$|\.gv11b$|gpu-gpc", device.name)
    ]
    for name, ends in (("CPU", cpus), ("GPU", gpus)):
        read_ends = [(system_text(low), system_text(high)) for low, high in ends]
        if read_ends and all(low and high for low, high in read_ends):
            held[name] = all(low == high for low, high in read_ends)
    return held


def _power_mode() -> str | None:
    """The mode that `nvpmodel -q` prints, which changes nothing."""
    with contextlib.suppress(TimeoutError):
        if mode := re.search(r"NV Power Mode: *(\S+)", printed_by("nvpmodel", "-q", check=False)):
            return mode[1]
    return None


def printed_by(tool: str, *arguments: str, check: bool = True) -> str:
    """What a tool prints; empty if it is not installed or, with `check`, fails.

    Raises:
        TimeoutError: it does not answer.
    """
    try:
        done = subprocess.run([tool, *arguments], capture_output=True, text=True, timeout=20, check=check)
    except (FileNotFoundError, subprocess.CalledProcessError):
        return ""
    except (OSError, subprocess.TimeoutExpired) as error:
        raise TimeoutError(f"{tool} does not answer ({error})") from error
    return done.stdout.strip()


def system_text(path: Path) -> str | None:
    """Text of a system file, without the zero byte that ends device-tree strings."""
    try:
        return path.read_text(errors="replace").rstrip("\0\n") or None
    except OSError:
        return None


def version(*distributions: str) -> str | None:
    """Version of the first of these distributions that is installed."""
    for name in distributions:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return None
