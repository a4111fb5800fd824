"""Ways to compute the attention of a case: what `bench.attention` times against each other.

Each maker gives a function of the case's inputs, or raises: then its message is in the result.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F

from bench.attention_cases import MASKS, Case, Program, mask_of, program

Maker = Callable[[Case, Sequence[torch.Tensor]], Program]


class UnavailableError(Exception):
    """This way cannot compute this case, or is not installed."""


def compiled(backend: str, case: Case, inputs: Sequence[torch.Tensor]) -> Program:
    """The program as a user compiles it."""
    found: Program = torch.compile(program(case), backend=backend, dynamic=False)
    return found


def by_hand(case: Case, inputs: Sequence[torch.Tensor]) -> Program:
    """The best call of SDPA: without a mask where that says the same; else the mask is made here,
    once, as a model makes it for all its layers.
    """
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
    """flex_attention, with a block mask that is made here."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    q, _k, _v, *operands = inputs
    attend = functools.partial(
        torch.compile(flex_attention, dynamic=False),
        scale=case.scale,
        enable_gqa=case.groups > 1,
    )
    if case.mask == "none":
        return lambda q, k, v, *_: attend(q, k, v)
    shows = block_mask_function(case, *operands)
    sizes = case.batch, None, case.queries, case.keys
    mask = create_block_mask(shows, *sizes, device=str(q.device))
    return lambda q, k, v, *_: attend(q, k, v, block_mask=mask)


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


def fmha(case: Case, inputs: Sequence[torch.Tensor]) -> Program:
    """TileGym's own, where its distribution is installed."""
    if case.mask not in ("none", "causal"):
        raise UnavailableError("fmha takes no mask")
    if case.train:
        raise UnavailableError("fmha has no gradient")
    try:
        attend = importlib.import_module("tilegym.ops").fmha
    except (ImportError, AttributeError, OSError) as error:
        raise UnavailableError(f"TileGym cannot be imported: {error}") from error
    given = {"scaling": case.scale, "is_causal": case.mask == "causal"}
    return lambda q, k, v, *_: attend(q, k, v, **given)


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
    "fmha": fmha,
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
