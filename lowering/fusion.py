"""The declaration of one fusion, from which matcher, op, tests, docs and bench are derived.

A fusion is plain PyTorch: its ops have a reference, its spellings are functions a user could have
written. Only *semantic* variants are spellings (where a cast sits, `1 + w`); algebra such as
`x * x` for `x.pow(2)` or swapped operands is the job of the canonical terms.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from tile_backend.lowering.mask_rule import MaskFacts, MaskRule, Respelling
from tile_backend.lowering.node import hint
from tile_backend.lowering.reason import Reason, ReasonKind
from tile_backend.lowering.strides import Promise

__all__ = [
    "Fusion",
    "Gradient",
    "Limit",
    "MaskFacts",
    "MaskRule",
    "Op",
    "Reason",
    "ReasonKind",
    "Respelling",
    "Run",
    "Scalar",
    "Shape",
    "Spelling",
    "Tensor",
    "hint",
]


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor hole.

    dims:     names from the left, "..." for any leading dimensions: "... D". Equal names are equal
              sizes.
    optional: the spelling is also traced with None in this place.
    dtype:    "T"    the low-precision dtype of the site (bf16 or fp16), or float32 throughout
              "T|f32" as "T", and also float32 while the others are low precision
              "f32"  float32 only;  "c64"  complex;  "bool"
              "any"  as "T|f32", but any dtype is taken where no arithmetic shows it (SDPA's mask)
              "i64"  whole numbers: labels, indices
    any_rank: more leading dimensions than `dims` names are accepted (a gain per head and feature).
    """

    dims: str
    optional: bool = False
    dtype: str = "T"
    any_rank: bool = False


@dataclasses.dataclass(frozen=True)
class Scalar:
    """A number hole: a literal, or a number that may change from call to call: no op goes in then.

    type: float, int, or str for a word such as the reduction of a loss.
    """

    type: type = float


Run = Callable[..., Any]
"""run(name, **arguments): the result of another op of the fusion, or the tuple of its results."""


@dataclasses.dataclass(frozen=True)
class Gradient:
    """A backward made of other ops of the fusion. An op without one recomputes its reference.

    applies:  (arguments, names of those that need a gradient) -> whether this backward has them;
              where it has not, the reference is recomputed.
    backward: (run, arguments, kept results of what ran forward, gradients of the op's results (None
              where there is none), names that need a gradient) -> gradients by name.
    saving:   the op that runs forward in its place: the same parameters; the same results, and
              after them what the backward needs beside the arguments. "" is the op itself.
    kept:     which results of that op `backward` gets.
    always:   better than the reference's own derivative also where no kernel runs.
    named:    the op's argument, a string, that tells `saving` which gradients are needed
              ("hidden,weight"), where that changes what it computes.
    """

    applies: Callable[[Mapping[str, Any], Sequence[str]], bool]
    backward: Callable[..., Mapping[str, torch.Tensor | None]]
    saving: str = ""
    kept: tuple[int, ...] = ()
    always: bool = False
    named: str = ""


@dataclasses.dataclass(frozen=True)
class Op:
    """One custom op, `torch.ops.tilegym.<name>`.

    schema:    "(Tensor x, Tensor? weight, float eps, float offset=0.0) -> Tensor": tensors first.
    reference: plain PyTorch with the same parameters: the specification, the oracle, the CPU path.
    outputs:   same parameters; allocates the result(s), uninitialised, with the layout the op
               promises.
    gradient:  its backward, where that is better than differentiating the reference.
    steps:     (run, arguments, multiprocessors of the GPU) -> the result by several ops of the
               fusion, that of the last one, or None for arguments that one launch serves better.
               Only where no gradient is needed. The tensors are fakes; `hint` of a dynamic size is
               what it is at capture, and adds no guard.
    stands_for: ops of ATen whose work it does, by name ("bmm"): a policy of selective checkpointing
               that saves one of them saves this op.
    composed:  (run, arguments, outputs) -> None, for an op without a kernel of its own: fills the
               outputs (None: unread) with ATen and other ops, `run(name, **arguments)`, on every
               device; waits for none, so it looks at sizes, not at values.
    sizes:     (arguments) -> the sizes that vary between calls that are otherwise alike, by name;
               one that bears an argument's name stands for it. None: the rows of the first tensor,
               {"rows": elements in front of its last dimension}. See launch_kind.
    unsized:   tensor arguments whose last dimension is one of those sizes, not a feature.
    on_cpu:    the same parameters -> new tensors, the results as the reference gives them, laid
               out as `outputs` promises but for dimensions of one element; or None, where the
               reference has to run. It may look at values.
    gradient_on_cpu: its backward there, where it applies: `gradient` for ops with an `on_cpu`.
    unread:    arguments that only the reference reads, no kernel.
    loses:     whether its kernel has not all NaN and infinity that the reference has (which, and
               why, says docs/limits.md).
    flops:     arguments -> the operations of its matrix products, for an op whose kernel has some.
               Tensors are meta tensors.
    """

    name: str
    schema: str
    reference: Callable[..., Any]
    outputs: Callable[..., Any]
    gradient: Gradient | None = None
    steps: Callable[[Run, Mapping[str, Any], int], Any] | None = None
    stands_for: tuple[str, ...] = ()
    composed: Callable[[Run, Mapping[str, Any], Sequence[torch.Tensor | None]], None] | None = None
    sizes: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None
    unsized: tuple[str, ...] = ()
    on_cpu: Callable[..., tuple[torch.Tensor, ...] | None] | None = None
    gradient_on_cpu: Gradient | None = None
    unread: tuple[str, ...] = ()
    loses: bool = False
    flops: Callable[[Mapping[str, Any]], float] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.outputs, Promise):
            object.__setattr__(self, "outputs", Promise(self.outputs))

    @property
    def in_training(self) -> str:
        """The name of the op that runs forward for a declared gradient: often its own."""
        return (self.gradient.saving if self.gradient else "") or self.name


@dataclasses.dataclass(frozen=True, eq=False)
class Spelling:
    """One way to write the fusion. Parameters are named after holes; not every hole must occur.

    op:         which of the fusion's ops it becomes ("" is the first).
    attributes: op arguments that this spelling fixes, e.g. {"offset": 1.0}; a callable gets the
                bound operands by name (fake tensors and numbers).
    declined:   a reason when the form is recognised but no op has its meaning.
    transform:  maps bound holes to op tensor arguments with plain PyTorch view ops
                (e.g. complex frequencies to cos and sin), or None for the identity.
    finish:     maps the op's first result to the spelling's, a view of it.
    grouped:    dimension H is a multiple of dimension K, not the same.
    table_ratio: dimension R over dimension D (rotary tables against head width); None: unrelated.
    name:       what the report calls it; "" is the name of the function.
    """

    function: Callable[..., Any]
    op: str = ""
    attributes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    declined: Reason | None = None
    transform: Callable[..., Mapping[str, Any]] | None = None
    finish: Callable[[Any], Any] | None = None
    grouped: bool = False
    table_ratio: float | None = 1.0
    name: str = ""

    @property
    def title(self) -> str:
        return self.name or self.function.__name__


@dataclasses.dataclass(frozen=True)
class Shape:
    """One benchmark row: a name a person knows and the shape of each tensor hole."""

    name: str
    shapes: Mapping[str, tuple[int, ...]]


Limit = Callable[[Mapping[str, Any]], Reason | None]
"""Takes the op's arguments by name (fake tensors and numbers); None means the site is allowed.

A question about a size that the program leaves open declines the site: see lowering.guards.
"""


@dataclasses.dataclass(frozen=True, eq=False)
class Fusion:
    """A fusion. Adding one is adding one file under `patterns/` with a module constant `FUSION`.

    summary:     one line for the docs table and the CLI.
    ops:         the custom ops, the main one first.
    holes:       the parameters of the spellings.
    spellings:   semantic variants; the first is usually the reference of the first op.
    near_misses: functions with the same parameters that must never match.
    left:        names of higher-order ops that mean this fusion and are left to Inductor, and why.
    anchors:     canonical ops whose presence says "somebody meant this fusion" (for near misses
                 and the warning that nothing was fused).
    alike:       groups of holes whose shapes must be equal.
    limits:      checks over the op's arguments.
    drops:       an interior value that a model may return and do without, if the user says so
                 ("logits"). Declined for it, a site is reported whatever takes a part of it.
    drop_option: the option by which the user says so, without its prefix.
    priority:    where two fusions overlap, the higher one wins; ties go to the larger match.
    mask:        what is done with a mask whose meaning was found.
    merge:       names of two spellings' ops that become one, see `tile_backend.lowering.merge`.
    describe:    what the report says a site bound, besides numbers and attributes; gets op
                 arguments.
    bench:       the shapes to measure it at.
    """

    name: str
    summary: str
    ops: tuple[Op, ...]
    holes: Mapping[str, Tensor | Scalar]
    spellings: tuple[Spelling, ...]
    near_misses: tuple[Callable[..., Any], ...] = ()
    left: Mapping[str, Reason] = dataclasses.field(default_factory=dict)
    anchors: tuple[str, ...] = ()
    alike: tuple[tuple[str, ...], ...] = ()
    limits: tuple[Limit, ...] = ()
    drops: str = ""
    drop_option: str = ""
    priority: int = 0
    mask: MaskRule | None = None
    merge: Merge | None = None
    describe: Callable[[Mapping[str, Any]], dict[str, object]] | None = None
    bench: tuple[Shape, ...] = ()

    def op(self, name: str = "") -> Op:
        return next(op for op in self.ops if not name or op.name == name)

    @property
    def supported(self) -> tuple[Spelling, ...]:
        """The spellings that become an op."""
        return tuple(spelling for spelling in self.spellings if spelling.declined is None)

    @property
    def declined(self) -> tuple[Spelling, ...]:
        """The forms that are recognised and that no op has."""
        return tuple(spelling for spelling in self.spellings if spelling.declined is not None)


@dataclasses.dataclass(frozen=True)
class Merge:
    """Two sites of op `one` that share the arguments `shared` become one call of op `two`.

    q and k of one rotary embedding are two sites that read the same cos and sin. `first` and
    `second` are the names that the separate argument of `one` has in `two`.
    """

    one: str
    two: str
    separate: str
    first: str
    second: str
    shared: tuple[str, ...]


def same_as(parameter: str) -> Callable[..., torch.Tensor]:
    """An `outputs` function: one tensor of the named argument's shape, dtype and dense strides."""

    def outputs(**arguments: Any) -> torch.Tensor:
        return torch.empty_like(arguments[parameter])

    return outputs
