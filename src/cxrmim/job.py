"""What every job shares: arguments, threads, a log file, errors in one line, exit codes.

A stop's ``__main__`` gives its unit of work and one function; heavy libraries are imported in that
function, after the thread counts are set.
"""

import argparse
import ctypes
import gc
import logging
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from cxrmim import disk, sole
from cxrmim import params as params_module
from cxrmim.errors import CxrmimError
from cxrmim.journal import Note
from cxrmim.params import Params
from cxrmim.paths import Paths

log = logging.getLogger("cxrmim")
log.addHandler(logging.NullHandler())
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
INTERRUPTED = 130
RARELY = 50_000  # new objects between two collections; Python's own 700 to 2000 suit small heaps
STEPPING = ("pretrain", "downstream")  # stops that train, step after step alike
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


class StoppedError(CxrmimError):
    """The job was told to stop, and has saved what it has done."""

    exit_code = 128 + signal.SIGTERM


@dataclass
class Warnings:
    """What a cluster has asked for by signals; a job acts on it between two steps.

    Attributes:
        save: SIGUSR1 came: save and go on.
        stop: SIGTERM came: save and stop.
    """

    save: bool = False
    stop: bool = False


@contextmanager
def warnings() -> Iterator[Warnings]:
    """Within, SIGUSR1 and SIGTERM only leave a note; the handlers before are put back after."""
    noted = Warnings()

    def save(number: int, frame: FrameType | None) -> None:
        noted.save = True

    def stop(number: int, frame: FrameType | None) -> None:
        noted.stop = True

    before = {
        signal.SIGUSR1: signal.signal(signal.SIGUSR1, save),
        signal.SIGTERM: signal.signal(signal.SIGTERM, stop),
    }
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Context:
    """What a job's work function is given."""

    params: Params
    paths: Paths
    threads: int
    unit: str


def parser(stop: str, unit: str, help_text: str) -> argparse.ArgumentParser:
    """Argument parser of a stop: one unit of work and the common options.

    Args:
        stop: the stop's word.
        unit: what a unit of work is called (dataset, checkpoint, job).
        help_text: one line.
    """
    out = argparse.ArgumentParser(prog=f"cxrmim {stop}", description=help_text)
    out.add_argument(f"--{unit}", dest="unit", required=True, metavar="NAME", help=f"which {unit}")
    add_common(out)
    return out


def add_common(out: argparse.ArgumentParser) -> None:
    """Add the options that every command takes."""
    out.add_argument("--params", default="params.yaml", metavar="FILE", help="parameter file")
    out.add_argument("--scale", help="override the scale set in the parameter file")
    out.add_argument("--threads", type=int, default=1, metavar="N", help="CPU threads to use")
    out.add_argument("--debug", action="store_true", help="show the traceback of an error")


def run(
    stop: str,
    arguments: argparse.ArgumentParser,
    work: Callable[[Context], None],
    argv: Sequence[str] | None = None,
) -> int:
    """Run one job and return the process's exit status.

    Status 0 is success, 2 wrong parameters, 3 bad data, 4 a contradiction between records, 1 any
    other failure, 130 an interrupt. Without --debug an expected error is one line; an unexpected
    one leaves the code lines of its traceback in the log file only.
    """
    args = arguments.parse_args(argv)
    set_threads(args.threads)
    # Importing torch and transformers makes a million objects that stay: looking through them for
    # garbage again and again takes a fifth of a job's start.
    gc.set_threshold(RARELY)
    if stop in STEPPING:
        keep_freed_memory()
    number = rank()
    notes: list[Note] = []  # of this job; none before its scale is known, or by other ranks

    def job() -> None:
        params = params_module.load(args.params, args.scale)
        paths = Paths(params.scale)
        path = paths.log(stop, args.unit)
        lock = sole.alone(paths, stop, args.unit) if number == 0 else nullcontext()
        with disk.told(paths), lock:
            if number == 0:
                notes.append(Note(paths, stop, args.unit))
            _log_to(path if number == 0 else path.with_suffix(f".{number}.log"))
            log.info("%s %s, scale %s, %d threads", stop, args.unit, params.scale, args.threads)
            work(Context(params, paths, args.threads, args.unit))
            log.info("done")
            for note in notes:
                note.done()

    def failed(line: str, status: int) -> None:
        for note in notes:
            note.failed(line, status)

    name = f"cxrmim {stop}" if number == 0 else f"cxrmim {stop}, process {number}"
    if "SLURM_JOB_ID" in os.environ:  # what one machine lacks another may have
        name += f" on {socket.gethostname()}"
    return guarded(job, debug=args.debug, name=name, failed=failed)


def leave(status: int) -> NoReturn:
    """End a job's process at once, with this exit status.

    Python would first take apart every imported module: two CPU seconds with torch and
    transformers, for memory that the system frees anyway. What was written is flushed before;
    nothing registered with `atexit` is run, so what a job must end it ends in `with` blocks.
    """
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def rank() -> int:
    """Number of this process among those that torchrun has started, 0 without it."""
    return int(os.environ.get("RANK", "0"))


def guarded(
    work: Callable[[], None],
    *,
    debug: bool,
    name: str,
    failed: Callable[[str, int], None] = lambda line, status: None,
) -> int:
    """Call `work`; turn exceptions into one line on stderr and an exit status.

    Args:
        work: what to do.
        debug: hand exceptions on instead.
        name: begins the line.
        failed: is told the line, without the name, and the exit status.
    """
    try:
        work()
    except CxrmimError as error:
        failed(str(error), error.exit_code)
        if debug:
            raise
        log.error("%s", error)
        if isinstance(error, StoppedError) and rank() > 0:
            return error.exit_code  # the first process tells it
        sys.stderr.write(f"{name}: {error}\n")
        return error.exit_code
    except KeyboardInterrupt:
        failed("interrupted", INTERRUPTED)
        sys.stderr.write(f"{name}: interrupted\n")
        return INTERRUPTED
    except BrokenPipeError:
        failed("its output was closed", 1)
        return 1
    except Exception as error:
        # The message of somebody else's exception may hold a path, an id or a report: only its
        # type and the lines of code that it went through are told.
        told = f"unexpected {type(error).__name__}"
        files = [h.baseFilename for h in log.handlers if isinstance(h, logging.FileHandler)]
        told += f"; code lines in {files[0]}" if files else ""
        failed(told, 1)
        if debug:
            raise
        trace = traceback.format_list(traceback.extract_tb(error.__traceback__))
        log.error("unexpected %s\n%s", type(error).__name__, "".join(trace))
        sys.stderr.write(f"{name}: {told}; --debug shows all of it\n")
        return 1
    return 0


def set_threads(count: int) -> None:
    """Hold OpenMP, BLAS and torch to `count` threads; call before they are imported."""
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(count)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(count)


def keep_freed_memory() -> None:
    """Have the C library keep what is freed; where it cannot be told so, nothing changes.

    A training step frees what the next one asks for again. Given back to the system in between, it
    returns page by page, each zeroed first.
    """
    with suppress(OSError, AttributeError):  # not glibc
        tell = ctypes.CDLL(None).mallopt
        tell(M_MMAP_MAX, 0)
        tell(M_TRIM_THRESHOLD, -1)


def _log_to(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # it may be a link into DVC's cache
    logging.raiseExceptions = False  # a log that a full disk cuts short ends no job
    handler = logging.FileHandler(path, mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.setLevel(logging.INFO)
    log.handlers[:] = [handler]
    log.propagate = False
    if sys.stderr.isatty():
        terminal = logging.StreamHandler()
        terminal.setLevel(logging.WARNING)
        log.addHandler(terminal)
