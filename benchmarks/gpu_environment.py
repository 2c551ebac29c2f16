"""The driver, the GPUs and the TensorRT flavours that are here; all of it is only asked."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import asdict
from typing import Any

from runtime.backends import cuda, ep_rtx
from runtime.backends.tensorrt_library import FLAVOURS, library
from runtime.errors import BackendUnavailable

QUERY = "name,driver_version,compute_cap,memory.total,clocks.sm,clocks.mem,power.limit,persistence_mode"


def environment() -> dict[str, Any]:
    """What is here; for what is not, why."""
    found: dict[str, Any] = {"platform": platform.platform(), "wheels": os.environ.get("WHEELS", "")}
    found["nvidia_smi"] = _nvidia_smi()
    found["nvidia_smi_works"] = isinstance(found["nvidia_smi"], list)
    try:
        driver = cuda.driver()
        found["driver"] = asdict(driver)
        found["devices"] = [asdict(cuda.device(index)) for index in range(driver.devices)]
    except BackendUnavailable as error:
        found["driver"], found["devices"] = str(error), []
    found["tensorrt"] = {}
    for flavour in FLAVOURS:
        try:
            found["tensorrt"][flavour] = str(library(flavour).__version__)
        except BackendUnavailable as error:
            found["tensorrt"][flavour] = str(error)
    try:
        found["tensorrt"]["ep-rtx"] = f"{ep_rtx.provider().__version__}, {len(ep_rtx.devices())} card(s)"
    except BackendUnavailable as error:
        found["tensorrt"]["ep-rtx"] = str(error)
    return found


def _nvidia_smi() -> list[dict[str, str]] | str:
    """What nvidia-smi answers, one record a GPU."""
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={QUERY}", "--format=csv,noheader"], capture_output=True, text=True
        )
    except FileNotFoundError:
        return "nvidia-smi is not installed"
    if done.returncode:
        return f"nvidia-smi failed: {(done.stdout + done.stderr).strip()}"
    values = (line.split(", ") for line in done.stdout.strip().splitlines())
    return [dict(zip(QUERY.split(","), value, strict=False)) for value in values]
