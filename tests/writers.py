"""Every way in which a program writes to a tensor, as functions of (what is written to, values).

Some have no name that ends with an underscore, some are called as a packet of overloads, some write
to a list, to an argument on the side, or through a view.
"""

from __future__ import annotations

import operator
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

OPS = torch.library.Library("tile_backend_tests", "FRAGMENT")
OPS.define("store(Tensor(a!) cache, Tensor new) -> ()")
OPS.define("store_all(Tensor(a!)[] caches, Tensor new) -> Tensor")
OPS.define("either.first(Tensor x, Tensor y) -> Tensor")
OPS.define("either.second(Tensor(a!) x, Tensor y, *, bool stores) -> Tensor")


def store(cache: Tensor, new: Tensor) -> None:
    cache.copy_(new)


def store_all(caches: list[Tensor], new: Tensor) -> Tensor:
    for cache in caches:
        cache.add_(new)
    return new * 2


def second(x: Tensor, y: Tensor, *, stores: bool) -> Tensor:
    x.add_(y)
    return y + 1


for _name, _function in (("store", store), ("store_all", store_all), ("either.second", second)):
    OPS.impl(_name, _function, "CompositeExplicitAutograd")
OPS.impl("either.first", lambda x, y: x + y, "CompositeExplicitAutograd")


@torch.library.custom_op("tile_backend_tests::scatter", mutates_args=("into",))
def scatter(values: Tensor, into: Tensor) -> None:
    """The second argument is the one that is written to."""
    into.copy_(values)


@torch.compiler.allow_in_graph
def on_the_side(values: Tensor, into: Tensor) -> Tensor:
    """A Python function that is one node of the graph, and writes to an argument."""
    into.add_(values)
    return values * 2


@torch.compiler.allow_in_graph
def through_data(values: Tensor, into: Tensor) -> Tensor:
    """The same past the version counter."""
    into.data.mul_(values)
    return values * 2


def iadd(x: Tensor, r: Tensor) -> None:
    x += r


def setitem(x: Tensor, r: Tensor) -> None:
    x[1:] = r[1:]


def columns(x: Tensor, r: Tensor) -> None:
    x.transpose(-2, -1)[3] = 7.0


def masked(x: Tensor, r: Tensor) -> None:
    x[r > 0] = 0.0


def renormed(x: Tensor, r: Tensor) -> None:
    F.embedding(torch.arange(2), x.view(-1, x.shape[-1]), max_norm=0.5)


def statistics(x: Tensor, r: Tensor) -> None:
    rows = x.view(-1, x.shape[-1])
    F.batch_norm(r.view(-1, r.shape[-1]), rows[0], rows[1], training=True)


WRITERS: dict[str, Callable[[Tensor, Tensor], object]] = {
    "iadd": iadd,
    "dunder_iadd": lambda x, r: x.__iadd__(r),
    "dunder_imul": lambda x, r: x.__imul__(r),
    "operator_isub": operator.isub,
    "dunder_setitem": lambda x, r: x.__setitem__(0, 1.0),
    "setitem": setitem,
    "masked_setitem": masked,
    "columns": columns,
    "copy_": lambda x, r: x.copy_(r),
    "out": lambda x, r: torch.add(x, r, out=x),
    "several_out": lambda x, r: torch.aminmax(
        r, dim=-1, keepdim=True, out=(x[..., :1], x[..., 1:2])
    ),
    "sorted_out": lambda x, r: torch.sort(r, out=(x, torch.zeros(r.shape, dtype=torch.long))),
    "by_the_name_of_python": lambda x, r: torch.relu_(input=x),
    "out_of_a_view": lambda x, r: torch.mul(x[0], 2.0, out=x[0]),
    "foreach_copy": lambda x, r: torch._foreach_copy_([x], [r]),
    "foreach_add": lambda x, r: torch._foreach_add_([r.clone(), x], 1.0),
    "foreach_mul_views": lambda x, r: torch._foreach_mul_(list(x.unbind(0)), 2.0),
    "index_copy": lambda x, r: x.index_copy_(0, torch.tensor([0]), r[:1]),
    "flagged": lambda x, r: F.relu(x, inplace=True),
    "flagged_by_position": lambda x, r: F.leaky_relu(x, 0.1, True),
    "aten_overload": lambda x, r: torch.ops.aten.add_.Tensor(x, r),
    "aten_packet": lambda x, r: torch.ops.aten.mul_(x, 2.0),
    "packet": lambda x, r: torch.ops.tile_backend_tests.store(x, r),
    "packet_of_a_list": lambda x, r: torch.ops.tile_backend_tests.store_all([x], r),
    "packet_by_keyword": lambda x, r: torch.ops.tile_backend_tests.store(new=r, cache=x),
    "one_of_two_overloads": lambda x, r: torch.ops.tile_backend_tests.either(x, r, stores=True),
    "custom_op": lambda x, r: scatter(r, x),
    "custom_op_packet": lambda x, r: torch.ops.tile_backend_tests.scatter(r, x),
    "python_function": lambda x, r: on_the_side(r, x),
    "through_data": lambda x, r: through_data(r, x),
    "detached": lambda x, r: x.detach().add_(r),
    "data": lambda x, r: x.data.mul_(2.0),
    "every_other": lambda x, r: x.view(-1)[::2].zero_(),
    "embedding_renorm": renormed,
    "running_statistics": statistics,
}
