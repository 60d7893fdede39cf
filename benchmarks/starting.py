"""One job's start, measured: what `overhead` runs in a process of its own.

    python -m benchmarks.starting STOP OPTION UNIT MODULE:ATTRIBUTE REPETITIONS

A job is run up to its first useful work, that is, until the named function is entered; there the
process ends. `record.current` is made to say no, as if the job had never run. The product has no
hook for this: the function is replaced when its module has been imported.

Each start is a forked child's: the first from a bare interpreter, the others from one that has
imported the same modules of other people's libraries, and nothing of this project.
"""

import contextlib
import importlib
import importlib.util
import json
import os
import sys
import time
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

OURS = ("cxrmim", "benchmarks")
TIED = ("__main__", "__mp_main__", "cython_runtime")  # no files of a library


class Watched(MetaPathFinder):
    """Replaces `attribute` of `module` by `reached` as soon as the module has been imported."""

    def __init__(self, module: str, attribute: str, reached: Any) -> None:
        self.module, self.attribute, self.reached = module, attribute, reached

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The usual spec, whose loader patches after it has run."""
        if name not in (self.module, "cxrmim.record"):
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)
        assert spec is not None and spec.loader is not None
        run = spec.loader.exec_module

        def exec_module(module: ModuleType) -> None:
            run(module)
            if name == "cxrmim.record":
                module.current = lambda *given: False  # type: ignore[attr-defined]
            if name == self.module:
                self.replace(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def replace(self, module: ModuleType) -> None:
        """Put `reached` in the attribute's place."""
        *outer, last = self.attribute.split(".")
        place: Any = module
        for part in outer:
            place = getattr(place, part)
        setattr(place, last, self.reached)


def start(stop: str, option: str, unit: str, target: str) -> tuple[float, list[str]]:
    """CPU seconds of a child up to the target, and the modules of libraries that it imported."""
    ours, theirs = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(ours)
        begun = time.process_time()

        def reached(*given: Any, **named: Any) -> None:
            spent = time.process_time() - begun
            text = json.dumps([spent, libraries()]).encode()
            while text:
                text = text[os.write(theirs, text) :]
            os._exit(0)

        watched = Watched(*target.split(":"), reached)
        sys.meta_path.insert(0, watched)
        if watched.module in sys.modules:  # a library's, imported before the fork
            watched.replace(sys.modules[watched.module])
        main = importlib.import_module(f"cxrmim.{stop}.__main__").main
        os._exit(main([f"--{option}", unit]) or 1)  # not reached: no figure
    os.close(theirs)
    with os.fdopen(ours, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    if status or not told:
        raise RuntimeError(f"{stop} {unit}: ended before {target} was called")
    spent, modules = json.loads(told)
    return spent, modules


def libraries() -> list[str]:
    """Imported modules that are neither Python's nor this project's, in the order of import."""
    known = (*sys.stdlib_module_names, *OURS, *TIED)
    return [name for name in sys.modules if name.partition(".")[0] not in known]


def main(argv: list[str]) -> None:
    """Print {total, over, libraries} as JSON: CPU seconds, and top-level names."""
    *job, repetitions = argv
    stop, option, unit, target = job
    total, needed = start(stop, option, unit, target)
    for name in needed:
        with contextlib.suppress(ImportError):  # what the module around it makes has no file
            importlib.import_module(name)
    over = [start(stop, option, unit, target)[0] for _ in range(int(repetitions))]
    found = sorted({name.partition(".")[0] for name in needed if not name.startswith("_")})
    sys.stdout.write(json.dumps({"total": total, "over": over, "libraries": found}) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
