"""Memory that tensors freed stays with a CPU's process, for the tensors of the next step to take.

The C library hands large blocks back to the system at once, which has to clear every page anew when the next tensor
asks for it: on 2 cores a quarter of a training step at 256x256. On a GPU, PyTorch itself keeps what was freed.
"""

import ctypes
import platform
import threading

# mallopt's parameters, of glibc's malloc.h
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD = -1, -2, -3
ALLOWANCE = 64 * 2**20
# larger tensors are few, and the holes they would leave add a tenth to the peak of restoring at 512x512
LARGEST_KEPT = 64 * 2**20
NEVER = -1

KEEP_FREED_MEMORY = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": str(LARGEST_KEPT),
    "MALLOC_TRIM_THRESHOLD_": str(2**62),
    "MALLOC_TOP_PAD_": str(ALLOWANCE),
}
"""The same for a process that trains in another thread than its main one, as Ray's workers do: set before it starts.

Other threads have heaps of their own, too small for large tensors, unless there is but one heap for all.
"""


def keep_freed_memory() -> None:
    """Stop handing freed memory back, in this process from now on; only in a main thread, and with glibc.

    The networks should be where they are to stay: what building and moving them has freed is handed back once more.
    """
    if platform.libc_ver()[0] != "glibc" or threading.current_thread() is not threading.main_thread():
        return
    library = ctypes.CDLL(None)
    # holes of the size of weights are too small for a step's tensors
    library.malloc_trim(0)
    for parameter, value in ((MMAP_THRESHOLD, LARGEST_KEPT), (TRIM_THRESHOLD, NEVER), (TOP_PAD, ALLOWANCE)):
        library.mallopt(parameter, value)
