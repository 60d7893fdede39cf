"""How a job's process begins and ends."""

import ctypes
import subprocess
import sys

import pytest

from cxrmim import job

# Page faults of a second block as large as the one before, which was freed.
FAULTS = """
import ctypes, resource, sys
from cxrmim import job
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
if sys.argv[1:]:
    job.keep_freed_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(100_000_000)
    ctypes.memset(block, 1, 100_000_000)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_leaving_flushes_and_runs_no_exit_handlers() -> None:
    code = (
        "import atexit, sys; from cxrmim import job;"
        "atexit.register(lambda: print('taken apart'));"
        "print('told'); sys.stderr.write('warned'); job.leave(3)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, "told\n", "warned")


@pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc, which it needs"
)
def test_memory_that_is_kept_is_not_zeroed_again() -> None:
    given_back, kept = (
        int(subprocess.check_output([sys.executable, "-c", FAULTS, *told]))
        for told in ([], ["keep"])
    )
    assert kept < 50 < 1000 < given_back


@pytest.mark.parametrize(
    ("stop", "kept"), [("pretrain", 1), ("downstream", 1), ("shards", 0), ("report", 0)]
)
def test_stops_that_train_keep_it(monkeypatch, tmp_path, stop, kept) -> None:
    calls: list[int] = []
    monkeypatch.chdir(tmp_path)  # where there are no parameters
    monkeypatch.setattr(job, "keep_freed_memory", lambda: calls.append(1))
    assert job.run(stop, job.parser(stop, "unit", ""), lambda ctx: None, ["--unit", "x"]) == 2
    assert len(calls) == kept


def test_another_c_library_is_left_alone(monkeypatch) -> None:
    monkeypatch.setattr(job.ctypes, "CDLL", lambda name: object())
    job.keep_freed_memory()
