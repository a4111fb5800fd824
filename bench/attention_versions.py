"""Ways to compute the attention of a case: what `bench.attention` times against each other.

Each maker gives a function of the case's inputs, or raises: then its message is in the result.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F

from bench.attention_cases import Case
from bench.attention_programs import MASKS, Program, mask_of, program
from bench.attention_tilegym import by_tilegym
from bench.versions import UnavailableError

Maker = Callable[[Case, Sequence[torch.Tensor]], Program]


def compiled(backend: str, case: Case, inputs: Sequence[torch.Tensor]) -> Program:
    """The program as a user compiles it."""
    found: Program = torch.compile(program(case), backend=backend, dynamic=False)
    return found


def by_hand(case: Case, inputs: Sequence[torch.Tensor]) -> Program:
    """The best call of SDPA: without a mask where that says the same; else the mask is made here,
    once, as a model makes it for all its layers.
    """
    if case.by_steps:
        raise UnavailableError("SDPA has no soft cap and no sinks")
    attend = functools.partial(
        F.scaled_dot_product_attention, scale=case.scale, enable_gqa=case.groups > 1
    )
    if case.mask in ("none", "causal"):
        return lambda q, k, v, *_: attend(q, k, v, is_causal=case.mask == "causal")
    q, k, _, *operands = inputs
    mask = mask_of(case, q, k, *operands)
    return lambda q, k, v, *_: attend(q, k, v, attn_mask=mask)


def by_backend(name: str, case: Case, inputs: Sequence[torch.Tensor]) -> Program:
    """The same call, on one of SDPA's backends. Raises UnavailableError with torch's reasons."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    call = by_hand(case, inputs)

    def attend(*given: torch.Tensor) -> torch.Tensor:
        with sdpa_kernel(getattr(SDPBackend, name)):
            return call(*given)

    with warnings.catch_warnings(record=True) as said, torch.no_grad():
        warnings.simplefilter("always")
        try:
            attend(*inputs)
        except RuntimeError as error:
            reasons = [str(warning.message).split(" (Triggered")[0] for warning in said]
            raise UnavailableError(" ".join([str(error), *reasons])) from error
    return attend


def flex(case: Case, inputs: Sequence[torch.Tensor]) -> Program:
    """flex_attention, with a block mask that is made here; a soft cap bends its scores."""
    if case.sinks:
        raise UnavailableError("flex_attention has no sinks in this torch")
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    q, _k, _v, *operands = inputs
    attend = functools.partial(
        torch.compile(flex_attention, dynamic=False),
        scale=case.scale,
        enable_gqa=case.groups > 1,
        score_mod=capped(case) if case.cap else None,
    )
    if case.mask == "none":
        return lambda q, k, v, *_: attend(q, k, v)
    shows = block_mask_function(case, *operands)
    sizes = case.batch, None, case.queries, case.keys
    mask = create_block_mask(shows, *sizes, device=str(q.device))
    return lambda q, k, v, *_: attend(q, k, v, block_mask=mask)


def capped(case: Case) -> Callable[..., torch.Tensor]:
    """The soft cap as flex_attention asks for it: of one score."""
    return lambda score, batch, head, query, key: torch.tanh(score / case.cap) * case.cap


def block_mask_function(case: Case, *operands: torch.Tensor) -> Callable[..., torch.Tensor]:
    """The case's mask as flex_attention asks for it: at an index."""
    if case.mask == "padding":
        return lambda batch, head, query, key: (key <= query) & operands[0][batch, key]
    if case.mask == "packed":

        def same_sequence(
            batch: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor
        ) -> torch.Tensor:
            (numbers,) = operands
            return (key <= query) & (numbers[batch, query] == numbers[batch, key])

        return same_sequence
    shows = MASKS[case.mask]
    assert shows is not None
    return lambda batch, head, query, key: shows(query, key, case, *operands)


EVERYWHERE: dict[str, Maker] = {
    "tilegym": functools.partial(compiled, "tilegym"),
    "inductor": functools.partial(compiled, "inductor"),
    "sdpa": by_hand,
}
ON_A_GPU: Mapping[str, Maker] = {
    "flash": functools.partial(by_backend, "FLASH_ATTENTION"),
    "cudnn": functools.partial(by_backend, "CUDNN_ATTENTION"),
    "efficient": functools.partial(by_backend, "EFFICIENT_ATTENTION"),
    "math": functools.partial(by_backend, "MATH"),
    "flex": flex,
    "TileGym": by_tilegym,
}


def makers(device: str) -> Mapping[str, Maker]:
    """All that there are for a device."""
    return EVERYWHERE if device == "cpu" else {**EVERYWHERE, **ON_A_GPU}


def outcome(
    function: Program, inputs: Sequence[torch.Tensor], slope: torch.Tensor | None
) -> tuple[torch.Tensor, ...]:
    """One step: the result; with `slope`, its gradient, those of q, k and v as well."""
    if slope is None:
        with torch.no_grad():
            return (function(*inputs),)
    result = function(*inputs)
    return (result.detach(), *torch.autograd.grad(result, inputs[:3], slope))
