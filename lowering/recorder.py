"""The launches of a piece of code, told without running it: it is run on meta tensors.

Of what it calls, matrix products, SDPA and our ops are launches of their own; everything else
Inductor fuses: operations that read each other's results, or one value, are one loop, as long as no
launch lies between them. That is more than Inductor always manages, so its side is rather
flattered. Only the forward is counted.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from tile_backend.lowering import aten_kind, composition, custom_op
from tile_backend.lowering.device import Gpu
from tile_backend.lowering.work import Step, Work, summed

Blocks = Callable[[str, Mapping[str, Any], Sequence[Any]], tuple[int, int]]
"""(op, arguments, outputs) -> blocks of its grid and how many a multiprocessor holds, or (0, 1)."""


def work(function: Callable[[], Any], gpu: Gpu, blocks: Blocks) -> Work:
    """Of a function that computes with meta tensors. Raises what the function raises."""
    recorder = Recorder(blocks)
    with torch.no_grad(), recorder, Attention(recorder):
        results = function()
    return recorder.total([tensor for tensor in tree_leaves(results) if is_tensor(tensor)], gpu)


def is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


def tensors(values: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(values) if is_tensor(leaf)]


def name_of(tensor: torch.Tensor) -> int:
    """Of the memory behind it: views are their base."""
    return int(tensor.untyped_storage()._cdata)


def bytes_of(tensor: torch.Tensor) -> int:
    """What is read of the memory; an expanded dimension is read once."""
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    return math.prod(n for n, step in pairs if step or not n) * tensor.dtype.itemsize


def taken(values: Any) -> dict[int, int]:
    """Bytes by value; of two views of one the larger."""
    found: dict[int, int] = {}
    for tensor in tensors(values):
        found[name_of(tensor)] = max(found.get(name_of(tensor), 0), bytes_of(tensor))
    return found


class Attention(TorchFunctionMode):
    """SDPA is one launch, whatever it is made of on meta tensors."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self.recorder = recorder

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if function is not torch.nn.functional.scaled_dot_product_attention:
            return function(*args, **(kwargs or {}))
        given = {**dict(zip(("query", "key", "value", "attn_mask"), args, strict=False))}
        given |= kwargs or {}
        q, k, v, mask = (given.get(n) for n in ("query", "key", "value", "attn_mask"))
        assert q is not None
        assert v is not None
        causal = bool(given.get("is_causal") or (len(args) > 5 and args[5]))
        result = q.new_empty((*q.shape[:-1], v.shape[-1]))
        pairs = q.shape[-2] * v.shape[-2] / (2 if causal else 1)
        flops = 2.0 * math.prod(q.shape[:-2]) * pairs * (q.shape[-1] + v.shape[-1])
        self.recorder.launch((q, k, v, mask), result, flops)
        return result


class Recorder(TorchDispatchMode):
    """Notes each call; `total` says what they come to."""

    def __init__(self, blocks: Blocks) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.blocks = blocks
        self.launches: list[Step] = []
        self.loops: list[Step] = []
        self.depth: dict[int, int] = {}
        """Of a value: how many launches lie before it."""
        self.made_by: dict[int, int] = {}
        """The loop that makes a value."""
        self.group: list[int] = []
        """By loop: another one that it is fused with, or itself."""
        self.readers: dict[tuple[int, int, int], int] = {}
        """By value, depth and size of the result: a loop that reads it."""
        self.alive: list[Any] = []

    def __torch_dispatch__(
        self, overload: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if overload.namespace == "aten":
            with self:
                result = overload.decompose(*args, **(kwargs or {}))
            if result is not NotImplemented:
                return result
        result = overload(*args, **(kwargs or {}))
        self.alive.append((args, kwargs, result))  # memory is told apart by its address
        if overload.namespace == custom_op.NAMESPACE:
            self.note_ours(overload, args, result)
            return result
        kind = aten_kind.kind_of(overload)
        if kind == "loop":
            self.loop((args, kwargs), result)
        elif kind == "opaque":
            formula = flop_registry.get(overload._overloadpacket)
            flops = formula(*args, **(kwargs or {}), out_val=result) if formula else 0
            self.launch((args, kwargs), result, flops)
        return result

    def note_ours(self, overload: Any, args: Any, result: Any) -> None:
        """One launch; the calls of a composed op are noted as they are made."""
        record = custom_op.record(overload._schema.name.rpartition("::")[2])
        arguments = record.signature.bind(args)
        outputs = result if isinstance(result, (tuple, list)) else (result,)
        if record.op.composed is not None:
            with self:
                composition.compose(record.op, arguments, outputs, composition.filling(self.fill))
            return
        self.fill(record, arguments, outputs)

    def fill(self, record: Any, arguments: Mapping[str, Any], outputs: Sequence[Any]) -> None:
        """A launch of a kernel of ours."""
        if not any(out is not None and out.numel() for out in outputs):
            return
        flops = record.op.flops(arguments) if record.op.flops is not None else 0.0
        blocks, resident = self.blocks(record.op.name, arguments, outputs)
        self.launch(arguments, outputs, flops, blocks, resident, sparing=True)

    def before(self, values: Any) -> int:
        return max((self.depth.get(name_of(t), 0) for t in tensors(values)), default=0)

    def launch(
        self,
        read: Any,
        made: Any,
        flops: float,
        blocks: int = 0,
        resident: int = 1,
        sparing: bool = False,
    ) -> None:
        self.alive.append((read, made))
        found = taken(read), taken(made)
        self.launches.append(Step(*found, float(flops), blocks, resident, sparing))
        depth = self.before(read) + 1
        for tensor in tensors(made):
            self.depth[name_of(tensor)] = depth

    def loop(self, read: Any, made: Any) -> None:
        depth, own = self.before(read), len(self.loops)
        step = Step(taken(read), taken(made))
        self.loops.append(step)
        self.group.append(own)
        for value in step.reads:
            if value in self.made_by and self.depth.get(value, 0) == depth:
                self.join(own, self.made_by[value])
            for tensor in tensors(made):
                self.join(own, self.readers.setdefault((value, depth, tensor.numel()), own))
        for tensor in tensors(made):
            self.depth[name_of(tensor)] = depth
            self.made_by[name_of(tensor)] = own

    def root(self, loop: int) -> int:
        while self.group[loop] != loop:
            loop = self.group[loop]
        return loop

    def join(self, one: int, other: int) -> None:
        self.group[self.root(one)] = self.root(other)

    def total(self, results: Sequence[torch.Tensor], gpu: Gpu) -> Work:
        """Of all that was noted. results: what is returned."""
        returned = set(taken(results))
        groups: dict[int, list[Step]] = {}
        for index, loop in enumerate(self.loops):
            groups.setdefault(self.root(index), []).append(loop)
        read_by_launches = {value for step in self.launches for value in step.reads}
        read_in = {
            (value, group): None
            for group, loops in groups.items()
            for loop in loops
            for value in loop.reads
        }
        everywhere: dict[int, set[int]] = {}
        for value, group in read_in:
            everywhere.setdefault(value, set()).add(group)
        wanted = {*read_by_launches, *everywhere, *returned}
        steps = [
            dataclasses.replace(s, writes={v: n for v, n in s.writes.items() if v in wanted})
            if s.sparing
            else s
            for s in self.launches
        ]
        for group, loops in groups.items():
            made: dict[int, int] = {}
            read: dict[int, int] = {}
            for loop in loops:
                made |= loop.writes
                for value, count in loop.reads.items():
                    read[value] = max(read.get(value, 0), count)
            needed = read_by_launches | returned
            written = {
                value: count
                for value, count in made.items()
                if value in needed or everywhere.get(value, set()) - {group}
            }
            if written:
                outside = {value: count for value, count in read.items() if value not in made}
                steps.append(Step(outside, written))
        return summed(steps, returned, gpu)
