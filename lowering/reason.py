"""Why a site was not rewritten: a kind for machines, a sentence for people, the node at fault.

The kinds are a closed set on purpose: tests, dashboards and filters rely on them.
"""

from __future__ import annotations

import dataclasses
import enum


class ReasonKind(enum.StrEnum):
    """What kind of obstacle it was. Values are stable: they appear in reports and lock files."""

    OP_DIFFERS = "op_differs"
    CONSTANT_DIFFERS = "constant_differs"
    OPERAND_ORDER_UNSUPPORTED = "operand_order_unsupported"
    CAST_MISSING = "cast_missing"
    CAST_EXTRA = "cast_extra"
    INTERIOR_VALUE_ESCAPES = "interior_value_escapes"
    DTYPE_LIMIT = "dtype_limit"
    STRIDE_LIMIT = "stride_limit"
    SHAPE_LIMIT = "shape_limit"
    SHAPE_UNPROVABLE = "shape_unprovable"
    SCALAR_IS_TENSOR = "scalar_is_tensor"
    SEMANTICS_UNSUPPORTED = "semantics_unsupported"
    MUTATION_BARRIER = "mutation_barrier"
    TENSOR_SUBCLASS = "tensor_subclass"
    EXCLUDED_BY_USER = "excluded_by_user"
    NOT_PROFITABLE = "not_profitable"
    VERIFY_FAILED = "verify_failed"
    MISSING_KERNEL = "missing_kernel"
    MISSING_DEPENDENCY = "missing_dependency"
    INTERNAL_FAILURE = "internal_failure"


@dataclasses.dataclass(frozen=True)
class Reason:
    """One obstacle.

    text: one sentence that names the value at fault; module path and line are the site's.
    node: name of the FX node at fault, or "" when no single node is.
    fix:  what the user can do, or "".
    """

    kind: ReasonKind
    text: str
    node: str = ""
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.fix})" if self.fix else self.text
