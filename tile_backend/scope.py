"""`with tile_backend.fusions(enable=..., disable=...)`: which fusions may fire inside.

The backend reads the innermost scope at each of its calls (the first call of a compiled callable)
by `active()`. A scope lies between `options=` and the environment in precedence. Scopes nest: an
inner `enable` replaces the outer one, `disable` adds up. Threads do not see each other's scopes.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import warnings
from collections.abc import Iterable, Iterator

from tile_backend.errors import BadOptionValue, NothingCompiled


@dataclasses.dataclass
class Scope:
    """What an open scope says. `read` is set once a backend call has looked at it."""

    enable: frozenset[str] | None
    disable: frozenset[str]
    outer: Scope | None = None
    read: bool = False

    @property
    def names(self) -> frozenset[str]:
        """Every fusion that was named, to be checked against the known ones."""
        return (self.enable or frozenset()) | self.disable

    def select(self, known: Iterable[str]) -> tuple[str, ...]:
        """The fusions that may fire, of those known and not ruled out otherwise."""
        return tuple(
            name
            for name in sorted(known)
            if (self.enable is None or name in self.enable) and name not in self.disable
        )


_SCOPE: contextvars.ContextVar[Scope | None] = contextvars.ContextVar("tilegym_scope", default=None)


def active() -> Scope | None:
    """The innermost open scope, or None. Marks it and those around it as read."""
    innermost = scope = _SCOPE.get()
    while scope is not None:
        scope.read = True
        scope = scope.outer
    return innermost


@contextlib.contextmanager
def fusions(
    enable: str | Iterable[str] | None = None, disable: str | Iterable[str] = ()
) -> Iterator[None]:
    """Restrict the fusions of every backend call inside.

    enable:  only these may fire; None leaves the choice to the outer scope or the environment.
    disable: these may not.

    An unknown name raises `UnknownFusion` at the backend call. A scope in which nothing compiled
    warns with `NothingCompiled`.
    """
    outer = _SCOPE.get()
    enabled = None if enable is None else names("enable", enable)
    disabled = names("disable", disable)
    if outer is not None:
        enabled = outer.enable if enabled is None else enabled
        disabled |= outer.disable
    scope = Scope(enabled, disabled, outer)
    token = _SCOPE.set(scope)
    try:
        yield
    finally:
        _SCOPE.reset(token)
    if not scope.read:
        given = {"enable": enable, "disable": disable or None}
        arguments = ", ".join(f"{k}={v!r}" for k, v in given.items() if v is not None)
        # Two frames up: past this generator and contextlib's __exit__, to the `with` statement.
        warnings.warn(NothingCompiled(arguments=arguments), stacklevel=3)


def names(key: str, value: str | Iterable[str]) -> frozenset[str]:
    """One name or several, as a set."""
    found = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(name, str) for name in found):
        raise BadOptionValue(key=f"fusions({key}=)", value=value, allowed="fusion names")
    return frozenset(found)
