"""How many processes the system has killed because memory was full: who was killed is told by SIGKILL alone, and so is
everybody whom a person kills."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

COUNTERS = (Path("/sys/fs/cgroup/memory.events"), Path("/proc/vmstat"))  # the control group's, else the machine's


def memory_kills() -> int | None:
    """Processes killed for memory so far, in this control group or on this machine; None: the system does not count."""
    for counter in COUNTERS:
        with suppress(OSError, ValueError):
            for line in counter.read_text(encoding="ascii").splitlines():
                if line.startswith("oom_kill "):
                    return int(line.split()[1])
    return None
