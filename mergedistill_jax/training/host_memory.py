"""Memory that this process has freed and the C library keeps."""

import ctypes
import sys


def return_freed() -> None:
    """Gives freed memory back to the system; where the C library is not glibc, nothing happens.

    A compiler leaves behind hundreds of MB of freed pieces, too small and too many for glibc to return by itself, and
    on a machine without accelerators they would count beside the parameters.
    """
    if sys.platform != "linux":
        return
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except AttributeError:
        return
    trim(0)
