"""What stands around the sites of a program: copies, other names, views, readers, other layers.

Each table holds expressions on a value `{x}`. A copy has memory of its own and the same values at
the time; an alias is the same memory, or what torch may give back as it is.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from tests.fuzz.draft import Draft, Refused

COPIES = (
    "{x}.clone()",
    "{x} * 1",
    "{x} + 0",
    "torch.cat([{x}])",
    "{x}.to({x}.dtype, copy=True)",
    "{x}.detach().clone()",
    "torch.empty_like({x}).copy_({x})",
    "{x}.new_empty({x}.shape).copy_({x})",
    "torch.stack([{x}])[0]",
    "{x}.repeat(*[1] * {x}.dim())",
    "{x}.clone(memory_format=torch.contiguous_format)",
    "1.0 * {x}",
    "{x} / 1",
    "{x} - 0.0",
    "-(-{x})",
    "{x}.pow(1)",
    "torch.clone({x})",
    "{x}.unsqueeze(0).expand(2, *{x}.shape)[1].clone()",
    "{x}.index_select(0, torch.arange({x}.shape[0]))",
    "{x}[torch.arange({x}.shape[0])]",
    "{x}.double().to({x}.dtype)",
    "torch.where(torch.ones_like({x}, dtype=torch.bool), {x}, 0.0)",
    "{x}.masked_fill(torch.zeros_like({x}, dtype=torch.bool), 0.0)",
    "{x}.flip(0).flip(0)",
    "{x}.transpose(0, -1).contiguous().transpose(0, -1)",
    "F.pad({x}, (0, 0))",
    "torch.add({x}, 0)",
    "{x}.reshape(-1).clone().view({x}.shape)",
    "torch.cat([{x}[:1], {x}[1:]])",
    "{x}.roll(0, 0)",
    "torch.mul({x}, 1)",
    "{x}.type(torch.float64).type({x}.dtype)",
    "{x}.repeat_interleave(1, 0)",
    "torch.broadcast_to({x}, (1, *{x}.shape))[0].clone()",
)
MASK_COPIES = (
    "{x}.clone()",
    "~~{x}",
    "{x} & True",
    "{x} | False",
    "torch.cat([{x}])",
    "{x}.to(torch.bool, copy=True)",
    "{x}.int() == 1",
    "{x}.expand(*{x}.shape).clone()",
)
ALIASES = (
    "{x}.view({x}.shape)",
    "{x}[:]",
    "{x}[...]",
    "{x}.contiguous()",
    "{x}.to({x}.dtype)",
    "{x}.detach()",
    "{x}.reshape({x}.shape)",
    "{x}.transpose(0, -1).transpose(0, -1)",
    "{x}.unsqueeze(0)[0]",
    "{x}.unsqueeze(-1).squeeze(-1)",
    "{x}.view_as({x})",
    "{x}.expand_as({x})",
    "{x}.type_as({x})",
    "{x}.flatten(0, 0)",
    "{x}.narrow(0, 0, {x}.shape[0])",
    "{x}.chunk(1)[0]",
    "{x}.split({x}.shape[-1], -1)[0]",
    "{x}.as_strided({x}.size(), {x}.stride())",
    "F.dropout({x}, 0.5, training=False)",
    "{x}.movedim(0, -1).movedim(-1, 0)",
    "{x}.alias() if hasattr({x}, 'alias') else {x}[:]",
    "{x}.data",
    "{x}.permute(*range({x}.dim()))",
    "torch.unbind({x}.unsqueeze(0))[0]",
    "{x}.swapaxes(0, -1).swapaxes(0, -1)",
)
PARTS = (
    "{x}[0]",
    "{x}[:1]",
    "{x}[..., :1]",
    "{x}[..., ::2]",
    "{x}[-1:]",
    "{x}.select(-1, 0)",
    "{x}.transpose(0, -1)",
    "{x}.unsqueeze(0)",
    "{x}.view(-1)",
    "{x}.chunk(2, -1)[0]",
    "{x}.split(1, -1)[0]",
    "{x}.unbind(-1)[0]",
    "{x}.narrow(-1, 0, 1)",
    "{x}.mT",
    "{x}.diagonal(dim1=0, dim2=-1)",
    "{x}.unfold(-1, 1, 1)",
)
READERS = (
    "{x}.sum()",
    "{x}.float().abs().mean()",
    "{x} * 2.0",
    "{x}.sin()",
    "torch.relu({x})",
    "{x}.sum(-1)",
)
DEAD = (
    "{x}.sum()",
    "{x} * 3.0",
    "torch.zeros_like({x})",
    "torch.ones_like({x})",
    "torch.empty_like({x})",
    "{x}.new_zeros({x}.shape)",
    "{x}.new_full((2,), 1.0)",
    "{x}.transpose(0, -1)",
    "{x}.isnan().any()",
    "torch.zeros(1).type_as({x})",
    "torch.zeros(1).expand({x}.shape)",
    "torch.zeros(1).expand_as({x})",
)
LAYERS = (
    "{x} + {y}",
    "{x} * {y}",
    "torch.maximum({x}, {y})",
    "torch.where({y} > 0, {x}, 0.5)",
    "{x} + {y}.mean()",
    "torch.tanh({x}) + {y}",
)
"""Between the sites, as the layers of a model are."""


def copied(s: Draft, allowed: Callable[[str], bool] = lambda name: True) -> str:
    """A copy of a value, which whatever reads the value may read from now on."""

    def possible(name: str) -> bool:
        return allowed(name) and (s.values[name].dtype.is_floating_point or is_mask(s, name))

    x = s.some(possible)
    return twin(s, "copy", x, s.pick(MASK_COPIES if is_mask(s, x) else COPIES))


def aliased(s: Draft) -> None:
    """Another name for the same memory, or what torch gives back as it is."""
    twin(s, "alias", s.some(), s.pick(ALIASES))


def twin(s: Draft, what: str, x: str, text: str) -> str:
    before = s.values[x]
    name = s.let(what, text.format(x=x), f"{what} {text}")
    after = s.values[name]
    if (after.shape, after.dtype) == (before.shape, before.dtype):
        s.twin(name, x)
    return name


def viewed(s: Draft) -> None:
    """A view of a part, to be written to or returned."""
    text = s.pick(PARTS)
    s.let("part", text.format(x=s.some()), f"view {text}")


def read(s: Draft) -> None:
    """A live reader of a value, perhaps of one inside a site."""
    text = s.pick(READERS)
    x = s.some(lambda name: s.values[name].dtype.is_floating_point)
    s.made.append(s.let("read", text.format(x=x), f"reader {text}"))


def read_by_nobody(s: Draft) -> None:
    """A reader whose result nothing reads, or one that reads a shape alone."""
    text = s.pick(DEAD)
    s.do(text.format(x=s.some()), f"dead {text}")


def layer(s: Draft) -> None:
    """A value made of two of one shape, of which one may be the result of a site."""
    floating = [n for n in s.values if s.values[n].dtype is s.dtype and s.values[n].dim() > 1]
    if not floating:
        raise Refused("there is nothing to compute with")
    x = s.pick(floating[::-1])
    y = s.pick([n for n in floating[::-1] if s.values[n].shape == s.values[x].shape])
    text = s.pick(LAYERS)
    s.let("h", text.format(x=s.at(x), y=s.at(y)), "layer")


def is_mask(s: Draft, name: str) -> bool:
    return s.values[name].dtype is torch.bool
