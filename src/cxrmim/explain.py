"""One clear line for a wrong key or value: what, where, what to do."""

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from cxrmim.plugins import Strict


def unknown(what: str, name: str, known: list[str]) -> str:
    """A sentence about a name that does not exist, with its nearest neighbours."""
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"; did you mean {' or '.join(near)}?" if near else f"; known: {', '.join(known)}"
    return f"no {what} {name!r}{hint}"


def fault(
    error: ValidationError,
    model: type[Strict],
    where: str = "",
    *,
    over: Mapping[str, Any] | None = None,
    scale: str = "",
) -> str:
    """One line for the first fault of a validation: key, value, rule, place to set it.

    Args:
        error: what pydantic raised.
        model: the class that was validated.
        where: dotted key of the tree that was validated.
        over: what the scale overrides, so that the place named is the one that decides.
        scale: name of that scale.
    """
    found = error.errors()
    # A misspelt key also leaves the right one missing: name the misspelling.
    first = next((e for e in found if e["type"] == "extra_forbidden"), found[0])
    # Of a union pydantic names the member, as `literal['a','b']`, which is no key.
    loc = [str(part) for part in first["loc"] if "[" not in str(part)]
    key = ".".join([*([where] if where else []), *loc])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(loc[-1], _sibling_keys(model, loc[:-1]), n=1)
        return f"{key}: unknown key" + (f"; did you mean {near[0]!r}?" if near else "")
    if first["type"] == "missing":
        return f"{key}: missing; add it there"
    node: Any = over or {}
    for part in loc:
        node = node.get(part) if isinstance(node, Mapping) else None
    place = f"scales.{scale}.{key}" if node is not None else key
    return f"{key} = {first['input']!r}: {first['msg']}; set it at `{place}`"


def _sibling_keys(model: Any, loc: list[str]) -> list[str]:
    for part in loc:
        field = getattr(model, "model_fields", {}).get(part)
        model = getattr(field, "annotation", None)
    known = isinstance(model, type) and issubclass(model, Strict)
    return list(model.model_fields) if known else []
