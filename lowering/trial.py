"""Running a site alone: its inputs, and what a piece of code makes of them, gradients included.

`of_each` does so for each distinct site and remembers the answer for as long as the process lives;
what is in the way of it is an answer, too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import fx

from tile_backend.lowering import (
    input_names,
    memory_bound,
    progress,
    random_inputs,
    real_tensors,
)
from tile_backend.lowering.alone import Alone, alone
from tile_backend.lowering.autocast_state import entered
from tile_backend.lowering.nesting import Nesting
from tile_backend.lowering.node import hint, value
from tile_backend.lowering.plan import Candidate
from tile_backend.lowering.real_tensors import CannotRun

Answer = TypeVar("Answer")
Outcome = list[torch.Tensor | None]
"""Results, then the gradient of each input that requires one."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """inputs: of both codes. cotangents: the gradient that each result gets; None for those that
    have none. original: what the original code makes of them in its own dtypes. given: see `trial`.
    """

    site: Alone
    given: Mapping[fx.Node, torch.Tensor]
    inputs: list[torch.Tensor]
    cotangents: list[torch.Tensor | None]
    original: Outcome

    @property
    def names(self) -> list[str]:
        """Of each part of an outcome."""
        pairs = zip(self.site.inputs, self.inputs, strict=True)
        wanted = [input_names.name(node) for node, tensor in pairs if tensor.requires_grad]
        return [root.name for root in self.site.roots] + [f"gradient of {n}" for n in wanted]

    @property
    def places(self) -> list[str]:
        """Of the tensors that may hold any number, see `trial`."""
        pairs = zip(self.site.roots, self.cotangents, strict=True)
        slopes = [f"the gradient of {root.name}" for root, given in pairs if given is not None]
        return [input_names.name(node) for node in of_numbers(self.site.inputs)] + slopes

    def new(self) -> Outcome:
        """What the new code makes of them."""
        with entered(self.site.autocast):
            return outcome(self.site.new, self.inputs, self.cotangents)


def trial(
    site: Alone, given: Mapping[fx.Node, torch.Tensor], seed: int = 0, unusual: int | None = None
) -> Trial:
    """Inside `real_tensors.isolated`. Raises CannotRun, and what the original code raises.

    given: the tensors that the program was called with, by input. seed: of the random inputs.
    unusual: which of `Trial.places` has numbers as random_inputs.make_unusual writes them.
    """
    generator = torch.Generator(site.device).manual_seed(seed)
    inputs = random_inputs.values(site.inputs, given, site.trains, generator)
    numbers = of_numbers(site.inputs)
    if unusual is not None and unusual < len(numbers):
        at = site.inputs.index(numbers[unusual])
        random_inputs.make_unusual(inputs[at], generator, site.unusual)
    with entered(site.autocast):
        results = as_tensors(site.original(*leaves(inputs)))
        for root, result in zip(site.roots, results, strict=True):
            check_like(value(root), result, root.name)
        cotangents = [
            random_inputs.like(r, generator) if r.requires_grad else None for r in results
        ]
        del results
        if unusual is not None and unusual >= len(numbers):
            slopes = [slope for slope in cotangents if slope is not None]
            random_inputs.make_unusual(slopes[unusual - len(numbers)], generator, site.unusual)
        original = outcome(site.original, inputs, cotangents)
        return Trial(site, given, inputs, cotangents, original)


def of_numbers(inputs: Sequence[fx.Node]) -> list[fx.Node]:
    """Those that may hold any number. A constant of the program holds what it does."""
    return [
        node for node in inputs if node.op != "get_attr" and value(node).dtype.is_floating_point
    ]


def of_each(
    candidates: Sequence[Candidate],
    nesting: Nesting,
    overload: str,
    given: Mapping[fx.Node, torch.Tensor],
    judge: Callable[[Trial], Answer],
    known: dict[Hashable, Answer],
    what: str,
) -> list[Answer | Exception]:
    """For each candidate what `judge` says of its trial, or why there is none.

    overload: of the ops that go in. given: see `trial`. known: answers of earlier compiles,
    extended. what: a word for the progress bar.
    """
    sites = [cut(candidate, nesting, overload) for candidate in candidates]
    wanted = {s.key: s for s in sites if isinstance(s, Alone) and s.key not in known}
    failed: dict[Hashable, Exception] = {}
    for site in progress.track(list(wanted.values()), what):
        try:
            known[site.key] = judged(site, given, judge)
        except Exception as error:  # noqa: BLE001 - an answer: see the module
            failed[site.key] = error
    return [
        s if isinstance(s, Exception) else failed[s.key] if s.key in failed else known[s.key]
        for s in sites
    ]


def cut(candidate: Candidate, nesting: Nesting, overload: str) -> Alone | Exception:
    try:
        return alone(candidate, nesting, overload)
    except Exception as error:  # noqa: BLE001 - the same
        return error


def judged(
    site: Alone, given: Mapping[fx.Node, torch.Tensor], judge: Callable[[Trial], Answer]
) -> Answer:
    if site.device.type == "cuda" and not torch.cuda.is_available():
        raise CannotRun("there is no GPU here to run it on")
    memory_bound.check(site.values, site.trains, site.device)
    with real_tensors.isolated(site.device):
        return judge(trial(site, given))


def outcome(
    function: Callable[..., Any],
    inputs: Sequence[torch.Tensor],
    cotangents: Sequence[torch.Tensor | None],
) -> Outcome:
    """Run forward, and backward where an input requires a gradient."""
    given = leaves(inputs)
    results = as_tensors(function(*given))
    wanted = [t for t in given if t.requires_grad]
    pairs = [
        (result, cotangent.to(result.dtype))
        for result, cotangent in zip(results, cotangents, strict=True)
        if cotangent is not None and result.requires_grad
    ]
    found: Outcome = [None] * len(wanted)
    if pairs and wanted:
        ours, theirs = zip(*pairs, strict=True)
        found = list(torch.autograd.grad(ours, wanted, theirs, allow_unused=True))
    return [*(result.detach() for result in results), *found]


def leaves(inputs: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """The same memory as tensors of their own, without a gradient so far."""
    return [t.detach().requires_grad_(t.requires_grad) for t in inputs]


def as_tensors(results: Any) -> tuple[torch.Tensor, ...]:
    return tuple(results) if isinstance(results, (tuple, list)) else (results,)


def check_like(fake: torch.Tensor, result: torch.Tensor, name: str) -> None:
    """Raise CannotRun where the graph has something else: the site was not cut out as it is."""
    sizes = [hint(size) for size in fake.shape]
    if result.dtype != fake.dtype or list(result.shape) != sizes:
        raise CannotRun(
            f"alone {name} is {result.dtype}{list(result.shape)}, and in the graph"
            f" {fake.dtype}{sizes}"
        )
