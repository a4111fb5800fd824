"""Selective activation checkpointing: what the user's policy says of the ops that we put in.

torch asks the policy for every op of the region. Of ours it is asked by the name that the site has:
`torch.ops.tilegym.attention.default`, also where that op runs as another one in training. A policy
that does not save it is asked for the ops of ATen that it stands for, so that whoever saves
`aten._scaled_dot_product_flash_attention` has attention saved.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx
from torch.utils.checkpoint import CheckpointPolicy

from tile_backend.lowering import custom_op, failure

META = "_checkpoint_context_fn"
"""Where Dynamo leaves the context function of a checkpointed body."""
Policy = Callable[..., Any]


def apply_to(bodies: Iterable[fx.GraphModule]) -> None:
    """Have every policy asked as described above."""
    for body in bodies:
        known = body.meta.get(META)
        if known is not None and not isinstance(known, Asked):
            body.meta[META] = Asked(known)


class Asked:
    """The user's context function, whose policies are asked for our ops by name."""

    def __init__(self, context_fn: Callable[[], tuple[Any, Any]]) -> None:
        self.context_fn = context_fn
        if hasattr(context_fn, "cache_hash"):  # without it AOTAutograd does not cache
            self.cache_hash = context_fn.cache_hash

    def __call__(self) -> tuple[Any, Any]:
        modes = self.context_fn()
        for mode in modes:
            policy = getattr(mode, "policy_fn", None)  # torch's modes have one; a user's may not
            if callable(policy):
                mode.policy_fn = asking(policy)
        return modes


def asking(policy: Policy) -> Policy:
    """The policy for all ops, ours included."""

    def asked(context: Any, op: Any, *args: Any, **kwargs: Any) -> Any:
        record = failure.instead(None, "telling an op from ours", None, site_op, op)
        if record is None:
            return policy(context, op, *args, **kwargs)
        answer = policy(context, record.overload, *args, **kwargs)
        others = () if saves(answer) else stood_for(record)
        answers = (policy(context, other, *args, **kwargs) for other in others)
        return next(filter(saves, answers), answer)

    return asked


def saves(answer: Any) -> bool:
    """Policies may answer with a bool."""
    return answer in (True, CheckpointPolicy.MUST_SAVE, CheckpointPolicy.PREFER_SAVE)


def site_op(op: Any) -> custom_op.Record | None:
    """The op that sites have, for one of our ops that runs; None for any other op."""
    for record in custom_op.records():
        runs = (record, custom_op.record(record.op.in_training))
        if any(op in (one.overload, one.interpreted) for one in runs):
            return record
    return None


@functools.cache
def stood_for(record: custom_op.Record) -> tuple[torch._ops.OpOverload, ...]:
    """Those of them that this version of torch has."""
    packets = (getattr(torch.ops.aten, name, None) for name in record.op.stands_for)
    return tuple(packet.default for packet in packets if packet is not None)
