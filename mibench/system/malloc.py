"""Keep freed memory instead of handing it back to the system after every operation.

glibc returns each large block at once and asks for it again at the next operation: every image-sized tensor then costs
fresh pages, which the kernel clears. It changes speed and resident memory, never a number.
"""

from __future__ import annotations

import ctypes
import sys
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # malloc.h of glibc
_NEVER_TRIM = 2**31 - 1


@cache
def keep_freed_memory() -> bool:
    """Tell glibc's malloc to keep large blocks. Returns whether it listened (other systems have no such malloc)."""
    if sys.platform != "linux":
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    mallopt.argtypes, mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, _NEVER_TRIM))
