import subprocess
import sys

import pytest

COUNT_ARENAS = """
import ctypes, sys, threading
from canthus.runtime.memory_arenas import limit_memory_arenas

if "limited" in sys.argv:
    limit_memory_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
barrier = threading.Barrier(8)

def allocate():
    libc.malloc(100)
    barrier.wait()  # all threads exist at the same time

threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc.fdopen.restype = ctypes.c_void_p
stream = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, stream)
libc.fflush(stream)
"""


def arenas(*arguments: str) -> int:
    child = subprocess.run([sys.executable, "-c", COUNT_ARENAS, *arguments], capture_output=True, text=True, check=True)
    return child.stdout.count("<heap nr=")


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of the GNU C library")
def test_eight_threads_share_two_arenas() -> None:
    assert arenas() > 2
    assert arenas("limited") <= 2
