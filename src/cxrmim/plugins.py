"""Plug-ins found by file name: methods, datasets, tasks, tables and figures.

A plug-in is one module in its kind's folder. Its knobs are a pydantic class called ``Options`` at
the top level of that module, so a new method brings its own schema with it.
"""

import ast
import importlib
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

PACKAGE = Path(__file__).parent
FOLDERS = {
    "method": "pretrain/methods",
    "dataset": "manifest/datasets",
    "layout": "phantom/layouts",
    "task": "downstream/tasks",
    "table": "report/tables",
    "figure": "report/figures",
}


class Strict(BaseModel):
    """Base of every params model: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def source(kind: str, name: str) -> Path | None:
    """File of a plug-in, or None if the project has no code for it yet.

    Args:
        kind: a key of `FOLDERS`.
        name: the plug-in's name as written in params.yaml.
    """
    path = PACKAGE / FOLDERS[kind] / f"{name}.py"
    return path if name.isidentifier() and not name.startswith("_") and path.is_file() else None


def names(kind: str) -> list[str]:
    """Names of all plug-ins of a kind that have code, sorted."""
    folder = PACKAGE / FOLDERS[kind]
    return sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_"))


def load(kind: str, name: str) -> ModuleType:
    """Import a plug-in's module."""
    return importlib.import_module("cxrmim." + FOLDERS[kind].replace("/", ".") + "." + name)


def options(kind: str, name: str) -> type[Strict] | None:
    """The plug-in's `Options` class, read without importing the module.

    Importing a method means importing torch and timm, seconds that a dry run must not pay. The
    class statement alone (it may use Strict, Field, Literal, Annotated and builtins) is compiled
    from the source instead; a base class that the module imports from another one of this package
    is read from there in the same way. `tests/test_plugins.py` holds it equal to what an import
    gives.

    Returns:
        The class, or None if the plug-in has no code yet or states no options.
    """
    path = source(kind, name)
    return None if path is None else _class(path, "Options")


@cache
def _class(path: Path, name: str) -> type[Strict] | None:
    """A pydantic class of a source file, compiled alone; once, for many entries share a method."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name]
    if not found:
        return None
    scope: dict[str, Any] = {
        "__name__": ".".join(("cxrmim", *path.relative_to(PACKAGE).with_suffix("").parts)),
        "Annotated": Annotated,
        "Field": Field,
        "Literal": Literal,
        "Strict": Strict,
    }
    for base in (b.id for b in found[0].bases if isinstance(b, ast.Name) and b.id != "Strict"):
        scope[base] = _imported(tree, base) or _class(path, base)
    exec(compile(ast.Module(list[ast.stmt](found), []), str(path), "exec"), scope)
    model: type[Strict] = scope[name]
    return model


def _imported(tree: ast.Module, name: str) -> type[Strict] | None:
    """The class that a module imports under a name from this package."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("cxrmim."):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    parts = (node.module or "").split(".")[1:]
                    return _class(PACKAGE.joinpath(*parts).with_suffix(".py"), alias.name)
    return None
