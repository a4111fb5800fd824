"""Reading option values: one reader per kind of value, for `options=` and for the environment.

A reader takes the key (for messages) and the value and returns the value in its canonical, hashable
form, or raises `BadOptionValue` with what is allowed. `decode` turns the text of an environment
variable into the Python object that the option would have been given.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from tile_backend import globs
from tile_backend.errors import BadOptionValue
from tile_backend.remark_filter import RemarkFilter

Reader = Callable[[str, Any], Any]

TRUE, FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")


def bad(key: str, value: object, allowed: str) -> BadOptionValue:
    """The error for a value that is not allowed, to be raised by the caller."""
    return BadOptionValue(key=key, value=value, allowed=allowed)


def word(*words: str) -> Reader:
    """One of the words."""

    def read(key: str, value: Any) -> str:
        if not isinstance(value, str) or value not in words:
            raise bad(key, value, ", ".join(repr(w) for w in words))
        return value

    return read


def flag() -> Reader:
    """True or False."""

    def read(key: str, value: Any) -> bool:
        if not isinstance(value, bool):
            raise bad(key, value, "True, False")
        return value

    return read


def fusion_names(key: str, value: Any) -> str | tuple[str, ...]:
    """The word "all", or a list of names (whether they are known is checked by `Options.parse`)."""
    if value == "all":
        return "all"
    if is_list_of_text(value):
        return tuple(sorted(set(value)))
    hint = f"; write [{value!r}] for one" if isinstance(value, str) else ""
    raise bad(key, value, f"'all', or a list of fusion names{hint}")


def module_globs(key: str, value: Any) -> globs.Globs:
    """A list of globs for every fusion, or a dict fusion -> list of globs."""
    each = value if isinstance(value, Mapping) else {globs.EVERY_FUSION: value}
    if not all(isinstance(name, str) and is_list_of_text(some) for name, some in each.items()):
        raise bad(key, value, "a list of module globs, or a dict from fusion name to such a list")
    if any(not part for some in each.values() for glob in some for part in glob.split(".")):
        raise bad(key, value, "globs without empty components, such as 'model.layers.*.mlp'")
    return tuple((name, tuple(sorted(set(some)))) for name, some in sorted(each.items()) if some)


def expectation(key: str, value: Any) -> str | tuple[tuple[str, int], ...] | None:
    """None, the path of a lock file, or a dict fusion -> count as sorted pairs."""
    if value is None:
        return None
    if isinstance(value, str | os.PathLike) and os.fspath(value):
        return str(os.fspath(value))
    if isinstance(value, Mapping) and all(
        isinstance(name, str) and type(count) is int and count >= 0 for name, count in value.items()
    ):
        return tuple(sorted(value.items()))
    raise bad(key, value, "None, the path of a lock file, or a dict from fusion name to a count")


def path(key: str, value: Any) -> str | None:
    """None, or a path as text."""
    if value is None:
        return None
    if isinstance(value, str | os.PathLike) and os.fspath(value):
        return str(os.fspath(value))
    raise bad(key, value, "None, or the path of a folder")


def remark_filter(key: str, value: Any) -> str:
    """The text of a filter, checked (see `tile_backend.remark_filter`)."""
    if not isinstance(value, str):
        raise bad(key, value, RemarkFilter.GRAMMAR)
    RemarkFilter.parse(value, key)
    return value


def is_list_of_text(value: object) -> bool:
    """True for a list, tuple or set that holds only strings."""
    return isinstance(value, list | tuple | set | frozenset) and all(
        isinstance(item, str) for item in value
    )


def decode(name: str, text: str, flag: bool) -> Any:
    """The object that the text of an environment variable stands for.

    Text that starts like a JSON list or object is read as one; that of a flag becomes a bool.
    """
    if flag:
        return truth(name, text)
    if text.lstrip().startswith(("[", "{")):
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise bad(name, text, f"valid JSON for a list or a dict ({error})") from error
    return text


def truth(name: str, text: str) -> bool:
    """The value of an environment variable that switches something on or off."""
    if text.strip().lower() in TRUE:
        return True
    if text.strip().lower() in FALSE:
        return False
    raise bad(name, text, "1 or 0 (also true, false, yes, no, on, off)")
