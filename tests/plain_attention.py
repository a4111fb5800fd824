"""The attention of a case of `bench.attention` in plain steps, its mask made one by one.

`agrees` holds another way to compute it to the budget against these steps in float64.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
import torch.nn.functional as F

from bench.attention_cases import Case
from bench.attention_versions import outcome
from tile_backend.lowering import oracle
from tile_backend.lowering.budget import within_budget


def shown(case: Case) -> torch.Tensor:
    """Which keys each query sees, [B, S, L], one by one."""
    mask = torch.zeros(case.batch, case.queries, case.keys, dtype=torch.bool)
    operands = [x.tolist() for x in case.operands("cpu")]
    for entry in range(case.batch):
        for query in range(case.queries):
            for key in range(case.keys):
                place = query + (operands[0] if case.decodes else 0)
                sees = case.mask == "none" or key <= place
                sees &= case.mask != "window" or key > place - case.size
                sees &= case.mask != "chunk" or key // case.size == place // case.size
                if case.mask == "padding":
                    sees &= operands[0][entry][key]
                if case.mask == "packed":
                    sees &= operands[0][entry][key] == operands[0][entry][query]
                mask[entry, query, key] = sees
    return mask


def directly(case: Case, *inputs: torch.Tensor) -> torch.Tensor:
    """softmax(q @ k^T) @ v, with the mask that was made one by one."""
    q, k, v = inputs[:3]
    k, v = (x.repeat_interleave(case.groups, 1) for x in (k, v))
    scores = (q @ k.transpose(2, 3)) / math.sqrt(q.shape[-1])
    if case.cap:
        scores = case.cap * torch.tanh(scores / case.cap)
    scores = scores.masked_fill(~shown(case)[:, None], -math.inf)
    if case.sinks:
        scores = torch.cat([inputs[3][:, None, None].expand(*scores.shape[:3], 1), scores], -1)
        return torch.softmax(scores, -1)[..., 1:] @ v
    return torch.softmax(scores, -1).nan_to_num(0.0) @ v


def by_torch(case: Case, *inputs: torch.Tensor) -> torch.Tensor:
    """The same as one call: what it rounds depends on the kernel that computes it."""
    q, k, v = inputs[:3]
    k, v = (x.repeat_interleave(case.groups, 1) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=shown(case)[:, None])


def agrees(case: Case, function: Any, original: Any = by_torch) -> None:
    """Results and gradients of all heads are within the budget. original: rounds as it does."""
    inputs = case.inputs("cpu")
    slope = torch.randn_like(inputs[0]) if case.train else None
    wide = None if slope is None else slope.double()
    exact = outcome(functools.partial(directly, case), oracle.widened(inputs), wide)
    usual = outcome(functools.partial(original, case), inputs, slope)
    verdict = within_budget(outcome(function, inputs, slope), exact, usual)
    assert verdict, str(verdict)
