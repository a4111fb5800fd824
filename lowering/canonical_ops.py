"""What is true of each canonical operation, said once for whoever asks.

Matching, extents, legality, identities and reports all need to know which operations compute
nothing of weight, which commute, which round. A list of names of its own in each of them is a list
that will disagree with the others; so none of them has one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Operation:
    """exact:       rounds no element, so a cast before it is a cast after it.
    shareable:   costs too little to forbid anything: its nodes may belong to several rewrites, and
                 be read outside of them, where the value is computed a second time.
    realised:    can be written down where no node of the graph holds its value (see realise).
    commutes:    its two operands can be swapped.
    elementwise: element by element, of operands that broadcast.
    rounds_once: torch computes it in float32, whatever the dtype, and rounds the result.
    reduces:     its first attribute says over which dimensions.
    free:        no operation: a value that is not looked into, a number, a hole of a pattern.
    """

    exact: bool = False
    shareable: bool = False
    realised: bool = False
    commutes: bool = False
    elementwise: bool = False
    rounds_once: bool = False
    reduces: bool = False
    free: bool = False


VIEW = Operation(exact=True, shareable=True, realised=True)
JOIN = Operation(exact=True)
PAIRS = Operation()
"""Complex numbers for pairs of real ones and back. No cast is moved through a change of kind."""
EACH = Operation(elementwise=True)
EACH_ROUNDED = Operation(elementwise=True, rounds_once=True)
SWAPS = Operation(elementwise=True, rounds_once=True, commutes=True)
REDUCTION = Operation(reduces=True)
LAYER = Operation()
FREE = Operation(free=True)

OPERATIONS: Mapping[str, Operation] = {
    **dict.fromkeys(("leaf", "number", "hole", "scalar"), FREE),
    **dict.fromkeys(("slice", "select", "permute", "reshape", "expand"), VIEW),
    "repeat_interleave": Operation(exact=True, shareable=True),
    **dict.fromkeys(("cat", "stack", "interleave"), JOIN),
    **dict.fromkeys(("view_as_complex", "as_complex", "view_as_real", "as_real", "conj"), PAIRS),
    "cast": Operation(shareable=True, realised=True, elementwise=True),
    "neg": Operation(exact=True, realised=True, elementwise=True),
    **dict.fromkeys(("add", "mul"), SWAPS),
    **dict.fromkeys(("sub", "div", "pow", "recip", "rsqrt", "erf", "cos", "sin"), EACH),
    **dict.fromkeys(("where", "masked_fill"), EACH),
    **dict.fromkeys(("silu", "gelu", "sigmoid", "tanh", "relu"), EACH_ROUNDED),
    **dict.fromkeys(("exp", "sqrt", "square", "abs"), EACH_ROUNDED),
    **dict.fromkeys(("mean", "sum", "amax", "var", "unbiased_var", "log_softmax"), REDUCTION),
    "softmax": Operation(reduces=True, rounds_once=True),
    **dict.fromkeys(("matmul", "linear", "sdpa", "layer_norm", "rms_norm", "dropout"), LAYER),
    **dict.fromkeys(("cross_entropy", "cross_entropy_of_probabilities"), LAYER),
    **dict.fromkeys(("weighted_cross_entropy", "nll_loss"), LAYER),
}


def having(quality: str) -> frozenset[str]:
    """The operations of which a field of Operation is true."""
    return frozenset(name for name, known in OPERATIONS.items() if getattr(known, quality))
