"""What Inductor makes of a call of ATen: part of a loop, nothing at all, or a kernel of its own.

PyTorch's own tags and schemas answer for nearly all operators; the few that have neither are named
here. Whatever is not known is a kernel of its own.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

Kind = Literal["loop", "view", "opaque"]

LOOPS = frozenset(
    (
        *("_to_copy", "clone", "copy", "copy_", "contiguous", "lift_fresh_copy", "fill"),
        *("masked_fill", "__and__", "__or__", "__xor__"),
        *("sum", "mean", "amax", "amin", "max", "min", "prod", "any", "all", "argmax", "argmin"),
        *("var", "var_mean", "std", "std_mean", "logsumexp", "linalg_vector_norm", "norm"),
        *("_softmax", "_log_softmax", "_safe_softmax", "native_layer_norm", "native_group_norm"),
        *("_fused_rms_norm", "cat", "stack", "constant_pad_nd", "gather", "nll_loss_forward"),
        *("full", "full_like", "zeros", "zeros_like", "ones", "ones_like", "arange", "eye"),
        *("new_full", "new_zeros", "new_ones", "scalar_tensor"),
        *("tril", "triu", "repeat", "flip", "roll", "index", "select_scatter", "slice_scatter"),
        *("repeat_interleave", "one_hot", "where"),
    )
)
"""Without a tag, and fused with their neighbours all the same."""
NOTHING = frozenset(
    (
        *("_unsafe_view", "_reshape_alias", "detach", "alias", "lift_fresh", "lift"),
        *("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"),
        *("_assert_async", "_assert_tensor_metadata", "_assert_scalar"),
    )
)


def kind_of(overload: Any) -> Kind:
    """Of an operator overload."""
    name = overload._schema.name.rpartition("::")[2]
    pointwise = torch.Tag.pointwise in overload.tags or name in LOOPS
    if torch.Tag.nondeterministic_seeded in overload.tags:
        return "opaque"
    if overload._schema.is_mutable:
        return "loop" if pointwise else "opaque"
    if name in NOTHING or is_view(overload):
        return "view"
    return "loop" if pointwise else "opaque"


def is_view(overload: Any) -> bool:
    """Whether a result is a view of an argument."""
    return any(returned.alias_info is not None for returned in overload._schema.returns)
