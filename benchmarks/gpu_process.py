"""How gpu_check runs the project's modules: each in a process group of its own, with a limit on its time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

_TICK = 3.0
STARTED = "STEP_STARTED"
"""Variable with the time at which a process was started, of `time.time`."""


def run(
    module: str, *arguments: str, limit: float | None, tick: Callable[[], None] = lambda: None
) -> tuple[int, str]:
    """Run a module of the project; its exit status and stderr.

    Args:
        limit: seconds after which it is killed, with the processes that it started.
        tick: called every few seconds meanwhile.
    """
    command = [sys.executable, "-m", module, *arguments]
    until = None if limit is None else time.monotonic() + limit
    # A group and no session: who ends the whole check by its session ends the step, too.
    with subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        preexec_fn=os.setpgrp,
        env={**os.environ, STARTED: str(time.time())},
    ) as process:
        try:
            while True:
                left = _TICK if until is None else min(_TICK, until - time.monotonic())
                try:
                    stderr = process.communicate(timeout=max(left, 0.01))[1]
                    return process.returncode, stderr
                except subprocess.TimeoutExpired:
                    tick()
                    if until is not None and time.monotonic() >= until:
                        os.killpg(process.pid, signal.SIGKILL)
                        return -9, process.communicate()[1] + f"\nstopped after {limit:.0f} s"
        except BaseException:  # Ctrl-C, or an end from outside: nothing may go on alone
            os.killpg(process.pid, signal.SIGKILL)
            raise
