"""One place in a model where a fusion was found, almost found, or found and declined.

A Site is plain data (strings, numbers, tuples): it outlives the graph, pickles, and prints.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from tile_backend.lowering.certificate import Certificate
from tile_backend.lowering.reason import Reason

if TYPE_CHECKING:
    from tile_backend.lowering.kernel_use import KernelUse
    from tile_backend.lowering.measurement import Measurement
    from tile_backend.lowering.snippet import Snippet

Status = Literal["fused", "declined", "near-miss"]
Choice = Literal["kernel", "reference", "interpreted"]
Basis = Literal["", "option", "device", "limit", "shipped", "user", "measured", "estimated"]
"""option, device, limit: nothing was weighed. shipped, user: a stored measurement, that of the
package or the user's own. measured: in this compile. estimated: by the static rule."""
WEIGHED: frozenset[Basis] = frozenset(("shipped", "user", "measured", "estimated"))


class Decision(str):
    """What runs at a fused site, `kernel`, `reference` (plain PyTorch) or `interpreted`.

    Compares equal to the plain word. `.evidence` is the sentence that justifies it. `.op_in_graph`:
    our op replaces the original ones; a reference mostly is the original ops, left to Inductor.
    `.respelled`: it is other PyTorch that computes the same, or an op that calls it. `.basis`: what
    kind of evidence it is; "" for none. `.measurement`: the times, where something was measured;
    `.note` then is what the sentence ends with.
    """

    note: str
    op_in_graph: bool
    respelled: bool
    basis: Basis
    measurement: Measurement | None

    def __new__(
        cls,
        choice: Choice,
        evidence: str,
        op_in_graph: bool | None = None,
        respelled: bool = False,
        basis: Basis = "",
        measurement: Measurement | None = None,
    ) -> Decision:
        self = super().__new__(cls, choice)
        self.note = evidence
        self.respelled = respelled
        self.op_in_graph = choice != "reference" if op_in_graph is None else op_in_graph
        self.basis = basis
        self.measurement = measurement
        return self

    @property
    def evidence(self) -> str:
        """The sentence, with the date of a measurement: the same in every process."""
        return (self.measurement.sentence() if self.measurement else "") + self.note

    @property
    def said(self) -> str:
        """The same for a person, with the age of a measurement."""
        if self.measurement is None:
            return self.note
        return self.measurement.sentence(dt.datetime.now(dt.UTC).date()) + self.note

    def noting(self, note: str) -> Decision:
        """With more at the end of the sentence."""
        choice, _, *rest = self.__getnewargs__()
        return Decision(choice, self.note + note, *rest)

    def __getnewargs__(self) -> tuple[Any, ...]:
        return str(self), self.note, self.op_in_graph, self.respelled, self.basis, self.measurement


@dataclasses.dataclass(frozen=True)
class GraphLine:
    """One op of a graph as a person reads it.

    text:   "to_1 = x.to(torch.float32)"
    source: "modeling_llama.py:68" (shown) ; path is the full file name, line the number
    code:   the user's source line, stripped, or "".
    """

    name: str
    text: str
    path: str = ""
    line: int = 0
    code: str = ""

    @property
    def source(self) -> str:
        return f"{self.path.rsplit('/', 1)[-1]}:{self.line}" if self.path else ""


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """A tensor operand. `shape` and `stride` hold ints or the text of a symbol ("s27");
    `example_shape`, `example_stride` hold ints that a repro can allocate.
    """

    dtype: str
    shape: tuple[int | str, ...]
    stride: tuple[int | str, ...]
    device: str
    example_shape: tuple[int, ...]
    example_stride: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(str(s) for s in self.shape)}]"


@dataclasses.dataclass(frozen=True)
class OpCall:
    """The call that stands for the site: `torch.ops.tilegym.<op>(**arguments)`.

    arguments: in schema order, name -> TensorSpec, number, bool, str or None. The caller's tensors
               are named in `operands`: argument name -> "model.norm.weight" for what a module
               holds, else the name of the FX node.
    """

    op: str
    arguments: Mapping[str, object]
    operands: Mapping[str, str]
    results: tuple[TensorSpec, ...]


@dataclasses.dataclass(frozen=True)
class Site:
    """See the public contract in DESIGN.md. `source` is "file:line" of the root op."""

    fusion: str
    status: Status
    module: str
    source: str
    graph: int
    spelling: str = ""
    reason: Reason | None = None
    fallback: Reason | None = None
    """Why a kernel that was wanted here cannot run; only of fused sites."""
    decision: Decision | None = None
    ops: tuple[str, ...] = ()
    bindings: Mapping[str, object] = dataclasses.field(default_factory=dict)
    before: tuple[GraphLine, ...] = ()
    after: tuple[str, ...] = ()
    call: OpCall | None = None
    kernels: tuple[KernelUse, ...] = ()
    """What is launched, or interpreted, at the sizes seen at capture; none for plain PyTorch."""
    certificate: Certificate | None = None
    """None where nobody asked for one (tilegym.verify)."""
    progress: str = ""
    """For a near miss: "9/10 ops"."""
    source_path: str = ""
    """Full file name behind `source`, whose file part is short."""
    snippet: Snippet | None = dataclasses.field(default=None, compare=False)
    """Of what was not fused: its ops as a function that runs alone. Not in the JSON."""
