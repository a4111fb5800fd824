"""Inductor lowerings that turn our ops into direct launches on buffers its planner owns.

    _tg.rms_norm(buf6, arg4_1, 1e-06, 0.0, 'once', out=buf7)                 one output
    _tg.add_rms_norm(buf0, buf1, arg4_1, 1e-06, 0.0, 'once', buf3, buf4)     several outputs

No dispatcher at run time; consumers reuse outputs in place; a dead output is passed as None; inputs
keep their strides, since our kernels read any. Layouts come from the op's fake implementation.
CUDA only. Elsewhere, and under wrappers that write no Python (cpp_wrapper and with it AOTInductor,
the FX wrapper), the op stays a call through the dispatcher.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch._inductor import ir
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch._inductor.lowering import fallback_handler, register_lowering
from torch._inductor.utils import convert_shape_to_inductor
from torch._inductor.virtualized import V

from tile_backend.lowering import custom_op, failure, gate, provenance, python_text
from tile_backend.lowering.fusion import Fusion
from tile_backend.lowering.launch_place import force_direct_launch, launches_on
from tile_backend.lowering.node import Size, hint
from tile_backend.lowering.signature import REQUIRED
from tile_backend.lowering.site_kernels import LaunchSite
from tile_backend.lowering.tensor_layout import Layout

__all__ = ["CustomGraphPass", "force_direct_launch", "install", "written_launches"]

IMPORT = "import tile_backend.lowering.launch_abi1 as _tg"

_written: contextvars.ContextVar[list[LaunchSite] | None] = contextvars.ContextVar(
    "written_launches", default=None
)
_by_name: contextvars.ContextVar[bool] = contextvars.ContextVar("by_name", default=False)
_installed: set[str] = set()


def install(fusions: Iterable[Fusion]) -> None:
    """Define every op of every fusion and give it its lowering. Idempotent.

    One that cannot be defined is no reason to be without the others.
    """
    fusions = tuple(fusions)
    custom_op.define_each(fusions)
    for op in (op for fusion in fusions for op in fusion.ops):
        record = custom_op.known(op.name)
        if op.name not in _installed and record is not None:
            failure.instead(None, f"registering the lowering of {op.name}", None, _register, record)
            _installed.add(op.name)


@contextlib.contextmanager
def written_launches() -> Iterator[list[LaunchSite]]:
    """The launches in the code that is generated inside, with the layouts that they will get.

    None for code that comes from a cache of Inductor's.
    """
    launches: list[LaunchSite] = []
    token = _written.set(launches)
    try:
        yield launches
    finally:
        _written.reset(token)


@contextlib.contextmanager
def called_through_dispatcher() -> Iterator[None]:
    """Code that is generated inside calls our ops by name, as other custom ops are called."""
    token = _by_name.set(True)
    try:
        yield
    finally:
        _by_name.reset(token)


def _register(record: custom_op.Record) -> None:
    plain = fallback_handler(record.overload, add_to_fallback_set=False)
    launched = functools.partial(_lower, record)

    def lower(*args: Any, **kwargs: Any) -> Any:
        return (launched if _launches_directly() else plain)(*args, **kwargs)

    register_lowering(record.overload, type_promotion_kind=None)(lower)
    called = fallback_handler(record.interpreted, add_to_fallback_set=False)
    register_lowering(record.interpreted, type_promotion_kind=None)(called)


def _launches_directly() -> bool:
    """Is the current node's result on a GPU, and the generated code Python?"""
    if _by_name.get() or V.graph.cpp_wrapper or getattr(V.graph, "fx_wrapper", False):
        return False
    return launches_on(_fakes()[0].device)


def _fakes() -> Sequence[torch.Tensor]:
    """What the current FX node returns: sizes, strides, dtype and device of each output."""
    value = V.graph.current_node.meta["val"]
    return value if isinstance(value, (tuple, list)) else (value,)


def _layouts() -> list[ir.FixedLayout]:
    """Sizes as the rest of the graph writes them: consumers then see a layout as their own."""
    return [
        ir.FixedLayout(
            fake.device,
            fake.dtype,
            convert_shape_to_inductor(fake.size()),
            convert_shape_to_inductor(fake.stride()),
        )
        for fake in _fakes()
    ]


def _lower(record: custom_op.Record, *args: Any, **kwargs: Any) -> Any:
    arguments = record.signature.values(args, kwargs)
    layouts = _layouts()
    if len(layouts) == 1:
        return ir.TensorBox.create(_LaunchOne(record, arguments, layouts[0]))
    call = _LaunchSeveral(record, arguments, layouts)
    return tuple(ir.TensorBox.create(output) for output in call.outputs)


def _is_input(value: Any) -> bool:
    return isinstance(value, ir.IRNode)


def _laid_out(value: Any, fake: torch.Tensor) -> Any:
    """A realised input, in the layout it has; where that is still open, in the captured graph's.

    Inductor would lay it out as suits the loop that computes it, so cosines might come transposed.
    To choose costs no copy, and the kernel is the one that was compiled for the captured graph.
    """
    realised = ir.ExternKernel.realize_input(value)
    open_to_choice = ir.is_storage_and_layout(realised) and isinstance(
        realised.get_layout(), ir.FlexibleLayout
    )
    if not open_to_choice:
        return realised
    order = ir.get_stride_order([hint(stride) for stride in fake.stride()])  # adds no guard
    return ir.ExternKernel.require_stride_order(realised, order)


class _Launch(ir.ExternKernel):
    """What both launches share: the arguments in schema order, and the comment above the call.

    Inductor keeps tensors (`inputs`) apart from constants (`constant_args`); an optional tensor
    that is None is a constant between tensors, so the order is rebuilt from `is_input`.
    """

    record: custom_op.Record
    is_input: tuple[bool, ...]

    def _take(
        self, record: custom_op.Record, arguments: Sequence[Any]
    ) -> tuple[list[Any], list[Any]]:
        self.record, self.is_input = record, tuple(map(_is_input, arguments))
        node = V.graph.current_node
        nodes = record.signature.values(node.args, node.kwargs)
        pairs = zip(arguments, nodes, strict=True)
        inputs = [_laid_out(value, arg.meta["val"]) for value, arg in pairs if _is_input(value)]
        return inputs, [value for value in arguments if not _is_input(value)]

    def codegen_args(self) -> list[str]:
        inputs = (
            value.codegen_reference() for value in self.inputs if isinstance(value, ir.IRNode)
        )
        constants = iter(self.codegen_const_args())
        return [next(inputs if is_input else constants) for is_input in self.is_input]

    def codegen_comment(self, wrapper: Any, *names: Any) -> None:
        super().codegen_comment(wrapper, *names)
        said = "  ".join((self.place(), *self.settings()))
        wrapper.writeline(f"# {python_text.comment(said)}")

    def settings(self) -> list[str]:
        """The numbers and words that are not the op's defaults, by name: "is_causal=True"."""
        signature, constants = self.record.signature, iter(self.constant_args)
        unread = self.record.op.unread
        return [
            f"{name}={value!r}"
            for name, usual, is_input in zip(
                signature.names, signature.defaults, self.is_input, strict=True
            )
            if not is_input
            and (value := next(constants)) != usual
            and usual is not REQUIRED
            and name not in unread
        ]

    def place(self) -> str:
        """Op, module and source line."""
        meta = self.fx_node.meta if self.fx_node is not None else {}
        words = (
            f"tilegym.{self.record.op.name}",
            provenance.module_path(meta),
            provenance.source_line(meta),
        )
        return "  ".join(word for word in words if word)

    def note(self, outputs: Sequence[Any]) -> None:
        """Tell `written_launches` what this launch gets; None for an output nobody reads."""
        launches = _written.get()
        if launches is None:
            return
        inputs = (value for value in self.inputs if isinstance(value, ir.IRNode))
        constants = iter(self.constant_args)
        arguments = [next(inputs if is_input else constants) for is_input in self.is_input]
        values = tuple(_layout(v) if _is_input(v) else v for v in (*arguments, *outputs))
        device = self.get_device_or_error()
        launches.append(
            LaunchSite(
                self.record.op.name,
                self.record.signature.names,
                values,
                gate.architecture(device),
                self.place(),
                V.graph.sizevars.shape_env,
            )
        )


def _layout(node: Any) -> Layout:
    """How a buffer, or a view of one, lies in memory."""
    layout = node.get_layout()
    return Layout(
        tuple(map(_number, layout.size)),
        tuple(map(_number, layout.stride)),
        _number(layout.offset),
        layout.dtype,
    )


def _number(expression: Any) -> Size:
    return int(expression) if getattr(expression, "is_number", True) else expression


class _LaunchOne(_Launch, ir.ExternKernelOut):
    """One output, allocated by the planner; the base class writes NAME(arguments, out=buffer)."""

    def __init__(self, record: custom_op.Record, arguments: Sequence[Any], layout: Any) -> None:
        inputs, constants = self._take(record, arguments)
        name = f"_tg.{record.op.name}"
        ir.ExternKernelOut.__init__(self, layout, inputs, constants, python_kernel_name=name)

    def codegen(self, wrapper: Any) -> None:
        wrapper.add_import_once(IMPORT)
        self.note([self])
        super().codegen(wrapper)


class _Output(ir.MultiOutput):
    """One of several outputs: an ordinary buffer of the planner. The launch writes the call."""

    def should_allocate(self) -> bool:
        return True

    def codegen(self, wrapper: Any) -> None:
        pass


class _LaunchSeveral(_Launch):
    """Several outputs, passed after the arguments."""

    def __init__(
        self, record: custom_op.Record, arguments: Sequence[Any], layouts: Sequence[Any]
    ) -> None:
        inputs, constants = self._take(record, arguments)
        layout = ir.MultiOutputLayout(device=layouts[0].device)
        super().__init__(None, layout, self.unwrap_storage(inputs), tuple(constants))
        self.python_kernel_name = f"_tg.{record.op.name}"
        self.name = V.graph.register_buffer(self)
        V.graph.register_operation(self)
        self.outputs = [_Output(each, self, [(tuple, i)]) for i, each in enumerate(layouts)]

    def should_allocate(self) -> bool:
        return False

    def codegen(self, wrapper: Any) -> None:
        wrapper.add_import_once(IMPORT)
        for output in self.outputs:
            wrapper.codegen_allocation(output)
        self.codegen_comment(wrapper, self.python_kernel_name)
        names = [output.get_name() for output in self.outputs]
        live = ["None" if name in V.graph.removed_buffers else name for name in names]
        self.note([None if n == "None" else o for n, o in zip(live, self.outputs, strict=True)])
        call = f"{self.python_kernel_name}({', '.join([*self.codegen_args(), *live])})"
        wrapper.writeline(f"{self.get_name()} = {call}")
