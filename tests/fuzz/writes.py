"""Writes of every kind that a program can make to a value `{x}`, from another of its shape, `{y}`.

By method, operator, index, `out=`, list, schema or flag, on the side of a function that returns
something else, and through memory that it shares.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch

from tests.fuzz import names
from tests.fuzz.draft import Draft

NUMBERS = (
    "{x}.add_(1.0)",
    "{x} += 0.5",
    "{x}.mul_(0.5)",
    "{x}[0] = 0.25",
    "{x}[...] = 0.25",
    "{x}[..., :1] = 1.5",
    "{x}.zero_()",
    "{x}.fill_(0.75)",
    "{x} *= 1.5",
    "{x} -= 0.25",
    "{x} /= 2.0",
    "{x}.__iadd__(1.0)",
    "{x}.__imul__(0.5)",
    "{x}.__setitem__(0, 0.5)",
    "operator.setitem({x}, 0, 0.5)",
    "operator.iadd({x}, 1.0)",
    "torch._foreach_add_([{x}], 1.0)",
    "torch._foreach_mul_([{x}], 0.5)",
    "torch._foreach_zero_([{x}])",
    "F.relu({x}, inplace=True)",
    "F.relu({x}, True)",
    "F.silu({x}, inplace=True)",
    "F.hardtanh({x}, -0.5, 0.5, True)",
    "F.leaky_relu({x}, 0.1, inplace=True)",
    "torch.relu_({x})",
    "F.relu_({x})",
    "{x}.clamp_(-0.5, 0.5)",
    "torch.ops.aten.mul_({x}, 0.5)",
    "torch.ops.aten.add_.Scalar({x}, 1.0)",
    "torch.ops.aten.zero_.default({x})",
    f"torch.ops.{names.NAMESPACE}.scaled_by({{x}}, 0.5)",
    f"torch.ops.{names.NAMESPACE}.scaled_by.default({{x}}, 0.5)",
    "{x}.view(-1).add_(1.0)",
    "{x}.transpose(0, -1).mul_(0.5)",
    "{x}.data.add_(1.0)",
    "{x}.detach().mul_(0.5)",
    "{x}.unsqueeze(0)[0].add_(1.0)",
    "{x}.select(-1, 0).fill_(0.5)",
    "{x}.as_strided({x}.size(), {x}.stride()).add_(1.0)",
    "{x}.chunk(2, -1)[0].mul_(2.0)",
    "{x}.neg_()",
    "{x}.square_()",
    "{x}.index_fill_(0, torch.arange(1), 0.5)",
    "torch.nn.init.constant_({x}, 0.5)",
    "torch.Tensor.add_({x}, 1.0)",
    "torch.fill_({x}, 0.5)",
    "torch.square_({x})",
    "torch.sigmoid_({x})",
    "torch.zeros({x}.shape, out={x})",
    "torch.full({x}.shape, 0.5, out={x})",
)
TENSORS = (
    "{x}.copy_({y})",
    "{x}.add_({y})",
    "{x} += {y}",
    "{x}[...] = {y}",
    "{x}[:1] = {y}[:1]",
    "{x} *= {y}",
    "torch.add({y}, 1.0, out={x})",
    "torch.mul({y}, {y}, out={x})",
    "torch.sigmoid({y}, out={x})",
    "torch.cat([{y}], out={x})",
    "torch._foreach_copy_([{x}], [{y}])",
    "torch._foreach_add_([{x}], [{y}])",
    "torch._foreach_lerp_([{x}], [{y}], 0.5)",
    f"torch.ops.{names.NAMESPACE}.store({{x}}, {{y}})",
    f"torch.ops.{names.NAMESPACE}.store.default({{x}}, {{y}})",
    "torch.ops.aten.copy_({x}, {y})",
    "torch.ops.aten.add_.Tensor({x}, {y})",
    "torch.ops.aten.mul.out({y}, {y}, out={x})",
    "{x}.index_copy_(0, torch.arange({x}.shape[0]), {y})",
    "{x}.index_add_(0, torch.arange({x}.shape[0]), {y})",
    "{x}.index_put_((torch.arange({x}.shape[0]),), {y})",
    "{x}[torch.arange({x}.shape[0])] = {y}",
    "{x}.scatter_(0, torch.zeros_like({x}, dtype=torch.int64), {y})",
    "{x}.masked_fill_({y} > 0, 0.5)",
    "{x}[{y} > 0] = 0.5",
    "{x}.masked_scatter_({y} > 0, {y})",
    "{x}.lerp_({y}, 0.5)",
    "{x}.addcmul_({y}, {y})",
    "{x}.__iadd__({y})",
    "{x}.__setitem__(slice(0, 1), {y}[:1])",
    "{x}.view(-1).copy_({y}.reshape(-1))",
    "{x}.set_({y}.clone())",
    "torch.maximum({y}, {y}, out={x})",
    "torch.where({y} > 0, {y}, {y}, out={x})",
    "{x}.data.copy_({y})",
    "{x}.data = {y}.clone()",
    "torch.neg({y}, out={x})",
    "torch.clamp({y}, -1.0, 1.0, out={x})",
    "torch.softmax({y}, -1, out={x})",
    "torch.index_select({y}, 0, torch.arange({y}.shape[0]), out={x})",
    "torch.exp({y}, out={x})",
    "torch.aminmax({y}, dim=-1, keepdim=True, out=({x}[..., :1], {x}[..., 1:2]))",
    "torch.ops.aten._foreach_copy_({x}.unbind(0), {y}.unbind(0))",
)
SIDE = (
    "F.batch_norm(torch.ones(3, {x}.shape[0], dtype={x}.dtype), {x}, None, training=True)",
    "F.batch_norm(torch.ones(3, {x}.shape[0], dtype={x}.dtype), None, {x}, training=True)",
    "F.batch_norm(torch.ones(3, {x}.shape[0], dtype={x}.dtype), {x}, {x} * 1.0, training=True)",
    "F.embedding(torch.zeros(1, dtype=torch.int64), {x}, max_norm=0.5)",
    "F.instance_norm(torch.ones(2, {x}.shape[0], 3, dtype={x}.dtype), {x}, {x} * 1.0)",
    "torch.embedding_renorm_({x}, torch.zeros(1, dtype=torch.int64), 0.5, 2.0)",
    "F.rrelu({x}, 0.1, 0.1, True, True)",
    "torch.threshold_({x}, 0.1, 0.2)",
    "F.dropout({x}, 0.0, True, True)",
    "F.normalize({x} * 1.0, dim=-1, out={x})",
    "torch.linalg.vector_norm({x}, dim=-1, keepdim=True, out={x}[..., :1])",
)
"""Functions that write an argument on the way to something else."""
MASKS = (
    "{x}.logical_not_()",
    "{x}[...] = True",
    "{x} |= True",
    "{x}[..., :1] = False",
    "{x}.fill_(True)",
    "{x}.__ior__(True)",
    "torch.logical_not({x}, out={x})",
    "torch._foreach_zero_([{x}])",
    "{x} ^= True",
)


REBINDS = re.compile(r"^{x} .?=")


def write(s: Draft, allowed: Callable[[str], bool] = lambda name: True) -> None:
    """One write to a value that eager lets be written to."""
    x = s.some(lambda name: allowed(name) and s.writable(name))
    value = s.values[x]
    if value.dtype is torch.bool:
        text = s.pick([t for t in MASKS if s.rebinds(x) or not REBINDS.match(t)])
        s.do(text.format(x=x), f"write {text}")
        return
    same = [n for n in s.values if s.values[n].shape == value.shape and n != x]
    others = [n for n in same if s.values[n].dtype == value.dtype]
    tables = [NUMBERS, TENSORS, SIDE] if others else [NUMBERS, SIDE]
    table = [t for t in s.pick(tables) if s.rebinds(x) or not REBINDS.match(t)]
    text = s.pick(table)
    y = s.pick(others[::-1]) if "{y}" in text else ""
    s.do(text.format(x=x, y=y), f"write {text}")
