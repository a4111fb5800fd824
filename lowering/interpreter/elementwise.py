"""Element-wise ops on floats: each result is rounded once, to the tile's type, as the op says.

APPROX and FULL results are computed exactly here. A product and a sum in one op (fma) are rounded
once. Flushing to zero takes operands and results below the smallest normal number to zero.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from tile_backend.lowering.interpreter import integers
from tile_backend.lowering.interpreter.bits import wrapped
from tile_backend.lowering.interpreter.elements import Element
from tile_backend.lowering.interpreter.formats import step_towards
from tile_backend.lowering.interpreter.frame import Frame
from tile_backend.lowering.interpreter.program import Op
from tile_backend.lowering.interpreter.registry import runs

NEAREST = (None, "RN", "FULL", "APPROX")
SMALLEST_NORMAL = torch.finfo(torch.float32).smallest_normal

INTEGER: dict[str, Callable[[torch.Tensor, torch.Tensor, Element], torch.Tensor]] = {
    "add": integers.add,
    "sub": integers.sub,
    "mul": integers.mul,
    "floordiv": integers.floordiv,
    "cdiv": integers.cdiv,
    "c_mod": integers.c_mod,
    "min": integers.smaller,
    "max": integers.larger,
}
FLOAT: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "add": torch.add,
    "sub": torch.sub,
    "mul": torch.mul,
    "truediv": torch.div,
    "floordiv": lambda x, y: torch.floor(x / y),
    "c_mod": torch.fmod,
    "pow": torch.pow,
    "atan2": torch.atan2,
}

COMPARISONS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    name: getattr(torch, name) for name in ("eq", "ne", "ge", "gt", "le", "lt")
}
BITWISE: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "and_": torch.bitwise_and,
    "or_": torch.bitwise_or,
    "xor": torch.bitwise_xor,
}
SHIFTS = {"lshift": integers.left_shift, "rshift": integers.right_shift}


def flushed(x: torch.Tensor) -> torch.Tensor:
    """float32 with subnormal numbers as zeros of their sign."""
    return torch.where(x.abs() < SMALLEST_NORMAL, torch.copysign(torch.zeros_like(x), x), x)


@runs("raw_binary_arith")
def binary(frame: Frame, op: Op) -> None:
    """Operands and result have one type."""
    x, y, element = frame.get(op["lhs"]), frame.get(op["rhs"]), op.result.element
    if element.is_integer:
        frame.put(op.result, frame.known(op, INTEGER, "fn")(x, y, element))
        if op["fn"] in ("floordiv", "cdiv", "c_mod"):
            undefined = integers.undefined_quotients(y)
            if undefined is not None:
                frame.mark(op.result, undefined, f"the division by zero at {op.source}")
        return
    if op["flush_to_zero"]:
        x, y = flushed(x), flushed(y)
    result = _float(frame, op, x, y)
    frame.put(op.result, flushed(result) if op["flush_to_zero"] else result)


def _float(frame: Frame, op: Op, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    if op["fn"] in ("min", "max"):
        return extreme(op["fn"], x, y, op["propagate_nan"])
    nearest = frame.known(op, FLOAT, "fn")(x, y)
    if op["rounding_mode"] in NEAREST:
        return nearest
    if nearest.dtype is torch.float64:
        raise frame.unsupported(op, f"rounding mode {op['rounding_mode']} of float64")
    error = _error(op["fn"], x.double(), y.double(), nearest.double())
    return step_towards(nearest, error, op["rounding_mode"])


def _error(fn: str, x: torch.Tensor, y: torch.Tensor, nearest: torch.Tensor) -> torch.Tensor:
    """The sign of exact result minus nearest, in float64, where products of float32 are exact."""
    if fn == "mul":
        return x * y - nearest
    if fn == "truediv":
        return (x - nearest * y) * y.sign()
    y = -y if fn == "sub" else y
    total = x + y
    virtual = total - x
    lost = (x - (total - virtual)) + (y - virtual)
    return (total - nearest) + lost


def extreme(fn: str, x: torch.Tensor, y: torch.Tensor, propagate_nan: bool) -> torch.Tensor:
    """min or max; NaN loses against a number unless it propagates."""
    if propagate_nan:
        return torch.minimum(x, y) if fn == "min" else torch.maximum(x, y)
    return torch.fmin(x, y) if fn == "min" else torch.fmax(x, y)


@runs("fma")
def fma(frame: Frame, op: Op) -> None:
    """lhs * rhs + acc, rounded once (twice in float64, which has nothing wider here)."""
    x, y, acc = (frame.get(op[name]) for name in ("lhs", "rhs", "acc"))
    if op["rounding_mode"] not in NEAREST:
        raise frame.unsupported(op, f"rounding mode {op['rounding_mode']}")
    if op["flush_to_zero"]:
        x, y, acc = flushed(x), flushed(y), flushed(acc)
    # A product of two float32 is exact in float64.
    result = (x.double() * y.double() + acc.double()).to(op.result.element.held)
    frame.put(op.result, flushed(result) if op["flush_to_zero"] else result)


@runs("raw_fpowi")
def power(frame: Frame, op: Op) -> None:
    """A float to an integer power."""
    base, exponent = frame.get(op["base"]), frame.get(op["exponent"])
    frame.put(op.result, torch.pow(base.double(), exponent.double()).to(base.dtype))


@runs("raw_cmp")
def compare(frame: Frame, op: Op) -> None:
    """Comparisons with NaN are false, `ne` true."""
    element = op["lhs"].element
    x, y = (integers.ordered(frame.get(op[name]), element) for name in ("lhs", "rhs"))
    frame.put(op.result, frame.known(op, COMPARISONS, "fn")(x, y))


@runs("raw_where")
def where(frame: Frame, op: Op) -> None:
    frame.put(op.result, torch.where(*(frame.get(op[name]) for name in ("cond", "x", "y"))))


@runs("raw_binary_bitwise")
def bitwise(frame: Frame, op: Op) -> None:
    fn = frame.known(op, BITWISE, "fn")
    frame.put(op.result, fn(frame.get(op["lhs"]), frame.get(op["rhs"])))


@runs("raw_bitwise_shift")
def shift(frame: Frame, op: Op) -> None:
    """Shifting by the width or more is undetermined."""
    x, y, element = frame.get(op["lhs"]), frame.get(op["rhs"]), op.result.element
    frame.put(op.result, frame.known(op, SHIFTS, "fn")(x, y, element))
    outside = (y < 0) | (y >= element.bits)
    if bool(outside.any()):
        frame.mark(op.result, outside, f"the shift by its width or more at {op.source}")


UNARY: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    name: getattr(torch, name)
    for name in "abs neg exp exp2 log log2 sqrt rsqrt sin cos tan sinh cosh tanh floor ceil".split()
}


@runs("unaryop")
def unary(frame: Frame, op: Op) -> None:
    x, element = frame.get(op["operand"]), op.result.element
    if op["fn"] in ("invert", "bitwise_not"):
        frame.put(op.result, wrapped(~x, element))
    elif not element.is_float:
        fn = frame.known(op, UNARY, "fn")
        same = op["fn"] == "abs" and element.kind == "unsigned"
        frame.put(op.result, wrapped(x if same else fn(x), element))
    else:
        frame.put(op.result, _unary_float(frame, op, x))


def _unary_float(frame: Frame, op: Op, x: torch.Tensor) -> torch.Tensor:
    if op["flush_to_zero"]:
        x = flushed(x)
    # Contiguous: torch takes another, differently rounding path through broadcast tiles.
    result = frame.known(op, UNARY, "fn")(x.contiguous())
    if op["rounding_mode"] not in NEAREST:
        if op["fn"] != "sqrt" or x.dtype is torch.float64:
            raise frame.unsupported(op, f"rounding mode {op['rounding_mode']} of {op['fn']}")
        error = x.double() - result.double().square()
        result = step_towards(result, error, op["rounding_mode"])
    return flushed(result) if op["flush_to_zero"] else result
