"""The parameters of one custom op, read from its parsed schema: names, order, defaults.

The dispatcher drops trailing arguments that equal the schema's default, so every Python kernel has
to put them back: `Signature.bind` does that, in one place, for implementation, fake, autograd,
lowering and launcher. Schemas are restricted to what all of those support: see `Signature.read`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tile_backend.lowering.fusion import Op


class _Required:
    """The default of a parameter that has none."""

    def __repr__(self) -> str:
        return "required"


REQUIRED = _Required()


@dataclasses.dataclass(frozen=True)
class Signature:
    """`names`, `defaults` (REQUIRED where there is none) and `is_tensor` run in parallel."""

    op: str
    names: tuple[str, ...]
    defaults: tuple[Any, ...]
    is_tensor: tuple[bool, ...]
    results: int

    @classmethod
    def of(cls, overload: torch._ops.OpOverload) -> Signature:
        """The signature of a defined op; raises what `read` raises."""
        return cls.read(overload._schema)

    @classmethod
    def read(cls, schema: torch._C.FunctionSchema) -> Signature:
        """Raise ValueError for a schema that the lowering or the launcher cannot serve."""
        name = schema.name.split("::")[-1]
        is_tensor = tuple("Tensor" in str(a.type) for a in schema.arguments)
        problems = []
        if is_tensor != tuple(sorted(is_tensor, reverse=True)) or not any(is_tensor):
            problems.append("tensors come first, then numbers, and there is at least one tensor")
        if any(a.kwarg_only for a in schema.arguments):
            problems.append("there are no keyword-only arguments")
        if any(a.alias_info is not None for a in (*schema.arguments, *schema.returns)):
            problems.append("nothing is mutated or aliased")
        types = [str(a.type) for a in schema.arguments]
        if any("List[Tensor" in kind or "List[Optional[Tensor" in kind for kind in types):
            problems.append("there are no lists of tensors")
        if not schema.returns or any(str(r.type) != "Tensor" for r in schema.returns):
            problems.append("every result is a Tensor")
        if problems:
            raise ValueError(
                f"torch.ops.tilegym.{name}: its schema must obey: {'; '.join(problems)}"
            )
        return cls(
            name,
            tuple(a.name for a in schema.arguments),
            tuple(a.default_value if a.has_default_value() else REQUIRED for a in schema.arguments),
            is_tensor,
            len(schema.returns),
        )

    def values(
        self, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None
    ) -> tuple[Any, ...]:
        """All arguments in schema order, defaults filled in. Raises TypeError as Python would."""
        values = (*args, *self.defaults[len(args) :])
        if kwargs:
            unknown = [name for name in kwargs if name not in self.names[len(args) :]]
            if unknown:
                raise TypeError(f"{self.op}() got unexpected or repeated arguments {unknown}")
            values = tuple(kwargs.get(name, v) for name, v in zip(self.names, values, strict=True))
        if len(values) > len(self.names):
            raise TypeError(f"{self.op}() takes {len(self.names)} arguments, not {len(values)}")
        if REQUIRED in values[len(args) :]:
            missing = [n for n, v in zip(self.names, values, strict=True) if v is REQUIRED]
            raise TypeError(f"{self.op}() is missing the arguments {missing}")
        return values

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The same as a mapping from names, in schema order."""
        return dict(zip(self.names, self.values(args, kwargs), strict=True))

    def filled(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What a match bound, in schema order: else the default, else None (an absent tensor)."""
        defaults = [None if default is REQUIRED else default for default in self.defaults]
        return {n: given.get(n, default) for n, default in zip(self.names, defaults, strict=True)}


@functools.cache
def declared(op: Op) -> Signature:
    """The signature of a declaration, whether or not its op is defined yet."""
    return Signature.read(torch._C.parse_schema(f"tilegym::{op.name}{op.schema}"))
