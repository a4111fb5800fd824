"""What a run of a program gave, and whether ours is right.

Right is: the budget of every result, gradient and input afterwards, against the same program in
float64 (see lowering.budget); the dtypes and shared memory of eager's results, and the strides of
eager's or of torch's fake ones; an exception only where eager raises one. What is over budget for
one set of inputs is judged again by several as one, as certificates do; by more of them, since in
a hundred thousand programs chance has many tries.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import torch

from tests.fuzz.limits import NO_LIMITS, Limits, kernels_as_references
from tests.fuzz.program import Program
from tile_backend.lowering import oracle
from tile_backend.lowering.budget import within_budget

DRAWS = 16
"""Sets of inputs that are judged as one, where the first is over its budget."""
Function = Callable[..., Sequence[torch.Tensor]]


@dataclasses.dataclass
class Outcome:
    """results, the inputs after the call, and the gradients of those that have one, by name.

    strides: of the results. shared: pairs of results and inputs that share memory. error: what was
    raised, and where: "forward" or "backward".
    """

    values: dict[str, torch.Tensor | None] = dataclasses.field(default_factory=dict)
    strides: list[tuple[int, ...]] = dataclasses.field(default_factory=list)
    shared: frozenset[tuple[str, str]] = frozenset()
    error: Exception | None = None
    where: str = ""

    @property
    def problem(self) -> str:
        return f"{type(self.error).__name__}: {self.error}" if self.error else ""


def ran(program: Program, function: Function, seed: int = 0, size: int = 0) -> Outcome:
    """Call a function of the program's inputs, and go backward where it trains."""
    return called(program, function, program.tensors(seed, size=size))


def called(program: Program, function: Function, inputs: Mapping[str, torch.Tensor]) -> Outcome:
    found, given = Outcome(), dict(inputs)
    try:
        results = list(function(**given))
        if not all(isinstance(result, torch.Tensor) for result in results):
            raise TypeError("it returns what is no tensor")
    except Exception as error:  # noqa: BLE001 - compared with eager's
        found.error, found.where = error, "forward"
        return found
    for index, result in enumerate(results):
        found.values[f"result {program.results[index]}"] = result.detach()
        found.strides.append(tuple(result.stride()))
    found.values |= {f"input {name}": tensor.detach() for name, tensor in inputs.items()}
    found.shared = sharing(found.values)
    if program.trains:
        try:
            backward(found, results, inputs)
        except Exception as error:  # noqa: BLE001 - the same
            found.error, found.where = error, "backward"
    return found


def backward(
    found: Outcome, results: Sequence[torch.Tensor], inputs: Mapping[str, torch.Tensor]
) -> None:
    """Gradients of a weighted sum of all results: weights of their own, or many would be zero."""
    wanted = {name: tensor for name, tensor in inputs.items() if tensor.requires_grad}
    floats = [r for r in results if r.requires_grad]
    if not floats or not wanted:
        return
    total = torch.zeros((), dtype=torch.float64)
    for index, result in enumerate(floats):
        generator = torch.Generator().manual_seed(index)
        eighths = torch.randint(-8, 9, result.shape, generator=generator)
        total = total + (result * (eighths.to(result.dtype) / 8)).double().sum()
    made = torch.autograd.grad(total, list(wanted.values()), allow_unused=True)
    found.values |= {f"gradient {n}": g for n, g in zip(wanted, made, strict=True)}


def sharing(values: Mapping[str, torch.Tensor | None]) -> frozenset[tuple[str, str]]:
    """Which of them lie in one storage; what has no elements lies nowhere."""
    places = {
        n: t.untyped_storage().data_ptr() for n, t in values.items() if t is not None and t.numel()
    }
    pairs = ((a, b) for a in places for b in places if a < b and places[a] == places[b])
    return frozenset(pairs)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """kind: "right", "right but for limits" (see Limits), "refused" (eager raises, so there is
    nothing to compare with), or what is wrong: "raises", "wrong result", "wrong input", "wrong
    gradient", "layout", "sharing".
    """

    kind: str
    text: str = ""

    @property
    def right(self) -> bool:
        return self.kind in ("right", "right but for limits", "refused")


RIGHT = Verdict("right")


@dataclasses.dataclass(frozen=True)
class Ours:
    """What is judged: a function of the program's inputs, by name.

    control: the same without our rewrites, where eager is not that. What fails there is torch's.
    strides: of the results as torch promises them, by fake tensors: those of SDPA are not eager's.
    limits: asked after a run.
    """

    function: Function
    control: Function | None = None
    strides: tuple[tuple[int, ...], ...] = ()
    limits: Callable[[], Limits] = Limits


class NotCaptured(Exception):
    """Torch does not make a graph of what eager runs."""


def judged(program: Program, make: Callable[[Program], Ours]) -> tuple[Program, Verdict]:
    """The program as it was run (without training, where eager itself cannot go backward)."""
    verdict = refusal(program)
    if verdict and verdict.text.startswith("backward"):
        program = dataclasses.replace(program, trains=False)
        verdict = refusal(program)
    if verdict:
        return program, verdict
    try:
        ours = make(program)
    except NotCaptured as error:
        return program, Verdict("refused", f"capture: {error}")
    except Exception as error:  # noqa: BLE001 - a finding
        return program, Verdict("raises", f"compile: {type(error).__name__}: {error}")
    worst = RIGHT
    for size in range(len(program.sizes)):
        verdict = of_size(program, ours, size)
        if not verdict.right:
            return program, verdict
        worst = worst if verdict == RIGHT else verdict
    return program, worst


def of_size(program: Program, ours: Ours, size: int) -> Verdict:
    verdict = compared(program, ours.function, size, ours.strides)
    limits = ours.limits()
    if not verdict.right and ours.control:
        theirs = compared(program, ours.control, size)
        if not theirs.right:
            return Verdict("refused", f"without our rewrites as well: {theirs.text}")
    if verdict.right or limits == NO_LIMITS:
        return verdict
    again = compared(program, ours.function, size, ours.strides, limits)
    return Verdict("right but for limits") if again == RIGHT else verdict


def refusal(program: Program) -> Verdict | None:
    """Why eager does not run the program, or not rightly.

    A checkpoint runs its body again and takes what that saves, without asking whether the body
    wrote to it: gradients are wrong where without a checkpoint eager raises.
    """
    reference = ran(program, program.function)
    if not reference.error and program.trains and "checkpoint(" in program.source:
        reference = ran(program, without_checkpoints(program))
    return (
        Verdict("refused", f"{reference.where}: {reference.problem}") if reference.error else None
    )


def compared(
    program: Program,
    ours: Function,
    size: int,
    promised: Sequence[tuple[int, ...]] = (),
    limits: Limits = NO_LIMITS,
) -> Verdict:
    """promised: other strides that results may have."""
    reference = ran(program, program.function, size=size)
    if reference.error:  # of other sizes
        return Verdict("refused", f"{reference.where}: {reference.problem}")
    found = ran(program, ours, size=size)
    if found.error:
        return Verdict("raises", f"{found.where}: {found.problem}")
    if found.values.keys() != reference.values.keys():
        return Verdict("wrong result", "another number of results")
    wrong = numbers(program, ours, found, reference, size, limits) or layout(
        found, reference, promised
    )
    return wrong or RIGHT


def numbers(
    program: Program,
    ours: Function,
    found: Outcome,
    reference: Outcome,
    size: int,
    limits: Limits,
) -> Verdict | None:
    wide = exact(program, 0, size)
    if wide.error:
        return Verdict("refused", f"in float64: {wide.problem}")

    def original(seed: int) -> Outcome:
        """What may be half as wrong as ours."""
        if not limits.attention:
            return ran(program, program.function, seed, size=size) if seed else reference
        with kernels_as_references():
            return ran(program, ours, seed, size=size)

    runs = [(found, wide, original(0))]
    verdict = within(runs, limits)
    if verdict and math.isfinite(verdict[1]):
        for seed in range(1, DRAWS):
            again = ran(program, ours, seed, size=size)
            runs.append((again, exact(program, seed, size), original(seed)))
        verdict = within(runs, limits)
    return verdict[0] if verdict else None


def exact(program: Program, seed: int, size: int) -> Outcome:
    """The program itself in float64, on the very numbers that the others get.

    They are drawn before the mode is on: under its default dtype the generator draws others. What a
    checkpoint runs again in the backward it would run without the mode.
    """
    inputs = program.tensors(seed, wide=True, size=size)
    with oracle.Float64():
        return called(program, without_checkpoints(program), inputs)


def without_checkpoints(program: Program) -> Function:
    """The program with the bodies of its checkpoints run once."""
    if not (program.trains and "checkpoint(" in program.source):
        return program.function
    return program.compiled(program.source, checkpoint=lambda body, **_: body())


def within(
    runs: Sequence[tuple[Outcome, Outcome, Outcome]], limits: Limits
) -> tuple[Verdict, float] | None:
    """None where all are within budget, judged as one; else the worst, and how far it is over."""
    worst: tuple[Verdict, float] | None = None
    for name in runs[0][2].values:
        columns = [filled([one.values.get(name) for one in run]) for run in runs]
        if limits != NO_LIMITS:
            columns = [[limits.applied(name, a, b, c), b, c] for a, b, c in columns]
        measured = within_budget(*(joined(column) for column in zip(*columns, strict=True)))
        used = measured.used
        if not measured and (worst is None or used > worst[1]):
            kind = name.split()[0]
            worst = Verdict(f"wrong {kind}", f"{name}: {measured}"), used
    return worst


def filled(parts: Sequence[torch.Tensor | None]) -> list[torch.Tensor]:
    """A gradient that is missing is one of zeros."""
    like = next((p for p in reversed(parts) if p is not None), torch.zeros(0))
    return [torch.zeros_like(like) if part is None else part for part in parts]


def joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(parts))


def layout(
    found: Outcome, reference: Outcome, promised: Sequence[tuple[int, ...]]
) -> Verdict | None:
    """Strides of the results, and which results and inputs are one memory."""
    if found.shared != reference.shared:
        pairs = sorted(found.shared ^ reference.shared)
        return Verdict("sharing", f"shared memory differs: {pairs[0]}")
    names = [n for n in reference.values if n.startswith("result")]
    others = promised or reference.strides
    known = zip(names, found.strides, reference.strides, others, strict=True)
    for name, ours, theirs, other in known:
        value = reference.values[name]
        if ours not in (theirs, other) and value is not None and value.numel():
            return Verdict("layout", f"{name}: strides {ours}, not {theirs}")
    return None
