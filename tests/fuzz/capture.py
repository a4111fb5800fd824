"""A program as the graph that Dynamo would hand over, ten times faster than Dynamo makes it.

The program's own code runs on proxies. Each call becomes a node under the target that Dynamo gives
it, with its fake value in `example_value` and its line in `stack_trace`. What the programs of this
package contain is covered, and no more; a test compares both graphs, node for node.

Longer than 300 lines because capturing is one class whose parts know each other.
"""

from __future__ import annotations

import builtins
import collections
import contextlib
import dataclasses
import functools
import inspect
import operator
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import fx
from torch._guards import TracingContext, tracing
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.amp import autocast_mode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.overrides import TorchFunctionMode

ALWAYS_KNOWN = ("shape", "dtype", "device", "ndim", "requires_grad", "is_leaf", "layout")
KNOWN_METHODS = ("size", "dim", "numel", "stride", "is_floating_point", "element_size", "nelement")
"""What is a constant of the graph, not a node of it."""
OWN_NAMES = {F.rms_norm: torch.rms_norm}
"""What Dynamo looks into, and the call it finds there."""
IN_PLACE = "add sub mul truediv floordiv mod pow matmul and or xor".split()
NAMED_PARTS = ("values", "indices", "min", "max")
"""Of the results of torch.max and others like it."""
REAL = "real"
"""Under this name a node has the tensor that the call gave."""
CHECKPOINT = "tag_activation_checkpoint"


Shown = Callable[[torch.Tensor], torch.Tensor]


class Fakes:
    """Fake tensors made of real ones, which share memory where these do.

    Each call runs on real tensors, and what it gives is looked at: a tenth of the cost of a call on
    fake tensors.
    """

    def __init__(self) -> None:
        self.mode = FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True)
        self.known: dict[int, tuple[torch.Tensor, FakeTensor]] = {}
        self.storages: dict[int, torch.UntypedStorage] = {}

    def of(self, real: torch.Tensor) -> FakeTensor:
        """The same one for the same tensor."""
        if id(real) not in self.known:
            self.known[id(real)] = real, self.made(real)
        return self.known[id(real)][1]

    def made(self, real: torch.Tensor) -> FakeTensor:
        with torch._C.DisableTorchFunction():
            memory = real.untyped_storage()
            if memory._cdata not in self.storages:
                self.storages[memory._cdata] = torch.UntypedStorage(memory.nbytes(), device="meta")
            elem = torch.empty(0, dtype=real.dtype, device="meta")
            place = self.storages[memory._cdata], real.storage_offset(), real.size(), real.stride()
            fake = FakeTensor(self.mode, elem.set_(*place), real.device)
            return fake.requires_grad_(real.requires_grad)


class Traced(fx.Proxy):
    """A value of the program: reads of metadata give constants, writes are nodes."""

    tracer: Tracer

    def __getattr__(self, name: str) -> Any:
        if name in ALWAYS_KNOWN or name in KNOWN_METHODS:
            Tracer.running[-1].here(self)
            with torch._C.DisableTorchFunction():
                known = getattr(self.node.meta[REAL], name)
            return unwatched(known) if name in KNOWN_METHODS else known
        if name == "data":
            return self.tracer.call("call_function", torch._C._autograd._get_data_attr, (self,), {})
        if callable(getattr(torch.Tensor, name)):
            return lambda *args, **kwargs: self.tracer.call(
                "call_method", name, (self, *args), kwargs
            )
        return self.tracer.call("call_function", builtins.getattr, (self, name), {})

    def __setitem__(self, index: Any, given: Any) -> None:
        self.tracer.call("call_function", operator.setitem, (self, index, given), {})

    def __setattr__(self, name: str, given: Any) -> None:
        if name not in ("node", "tracer"):
            raise NotImplementedError(f"`.{name} =` is for Dynamo alone")
        super().__setattr__(name, given)

    def called(self, name: str, *args: Any) -> Any:
        """`x.__iadd__(y)`, which Dynamo keeps apart from `x += y`."""
        return self.tracer.call("call_method", name, (self, *args), {})

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        _: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return Tracer.running[-1].function(func, args, kwargs or {})


def replaced(given: Any, kind: type, by: Callable[[Any], Any]) -> Any:
    """The same containers with other things in the place of those of one kind."""
    if isinstance(given, kind):
        return by(given)
    if type(given) in (tuple, list):
        return type(given)([replaced(part, kind, by) for part in given])
    if type(given) is dict:
        return {key: replaced(part, kind, by) for key, part in given.items()}
    if type(given) is slice:
        return slice(*(replaced(p, kind, by) for p in (given.start, given.stop, given.step)))
    return given


def unwatched(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of a fake tensor that is no call of the program."""

    def known(*args: Any, **kwargs: Any) -> Any:
        with torch._C.DisableTorchFunction():
            return method(*args, **kwargs)

    return known


def _in_place(name: str) -> Callable[..., Any]:
    target = getattr(operator, f"i{name}")

    def write(self: Traced, other: Any) -> Any:
        return self.tracer.call("call_function", target, (self, other), {})

    return write


for _name in IN_PLACE:
    setattr(Traced, f"__i{_name}__", _in_place(_name))


class Tracer(fx.proxy.GraphAppendingTracer):
    """Appends calls to one graph.

    shown: what stands for a real tensor in the graph. lifted: tensors of the graph outside ->
    inputs of this body.
    """

    running: ClassVar[list[Tracer]] = []

    def __init__(self, shown: Shown, file: str, outside: Tracer | None = None) -> None:
        super().__init__(fx.Graph())
        self.shown, self.file, self.outside = shown, file, outside
        self.lifted: dict[Traced, fx.Node] = {}
        self.bodies: dict[str, fx.GraphModule] = {}

    def function(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """A function of torch, called with proxies."""
        if torch.overrides.is_tensor_method_or_property(func):
            return self.call("call_method", func.__name__, args, kwargs)
        given = {
            n: a for n, a in kwargs.items() if n != "_stacklevel" and a is not default(func, n)
        }
        return self.call("call_function", OWN_NAMES.get(func, func), args, given)

    def create_proxy(
        self, kind: str, target: Any, args: Any, kwargs: Any, *_: Any, **__: Any
    ) -> Any:
        """What fx's operators ask for."""
        return self.call(kind, target, args, kwargs)

    def call(self, kind: str, target: Any, args: Any, kwargs: Any) -> Any:
        tracer = Tracer.running[-1]
        args, kwargs = replaced((tuple(args), dict(kwargs)), Traced, tracer.here)
        values = replaced((args, kwargs), fx.Node, lambda n: n.meta[REAL])
        with torch._C.DisableTorchFunction():
            result = run(kind, target, *values)
        node = tracer.graph.create_node(kind, target, args, kwargs)
        node.meta[REAL] = result
        node.meta["example_value"] = replaced(result, torch.Tensor, tracer.shown)
        node.meta["stack_trace"] = tracer.place()
        return (
            tracer.parts(node, result)
            if isinstance(result, (tuple, list))
            else Traced(node, tracer)
        )

    def parts(self, node: fx.Node, result: Any) -> Any:
        """Each part of a tuple as a value of its own."""
        proxy = Traced(node, self)
        found = [
            self.call("call_function", operator.getitem, (proxy, i), {}) for i in range(len(result))
        ]
        if type(result) in (tuple, list):
            return type(result)(found)
        names = [n for part in result for n in NAMED_PARTS if getattr(result, n, None) is part]
        return collections.namedtuple("Parts", names)(*found)

    def here(self, proxy: Traced) -> fx.Node:
        """The node of this graph that has a proxy's value; an input where it is from outside."""
        if proxy.tracer is self:
            return proxy.node
        if proxy not in self.lifted:
            inner = self.outside.here(proxy) if self.outside else proxy.node
            self.lifted[proxy] = self.placeholder(inner.name, inner.meta[REAL])
        return self.lifted[proxy]

    def placeholder(self, name: str, real: torch.Tensor) -> fx.Node:
        """A further input, behind the others."""
        last = next((n for n in reversed(self.graph.nodes) if n.op == "placeholder"), None)
        before = next(iter(self.graph.nodes), None) if last is None else last.next
        with self.graph.inserting_before(before):
            node = self.graph.placeholder(name)
        node.meta[REAL] = real
        node.meta["example_value"] = self.shown(real)
        return node

    def place(self) -> str:
        """The innermost line of the program that runs."""
        frame: Any = sys._getframe(2)
        while frame is not None and frame.f_code.co_filename != self.file:
            frame = frame.f_back
        if frame is None:
            return ""
        return f'  File "{self.file}", line {frame.f_lineno}, in {frame.f_code.co_name}\n'

    def autocast(self, *given: Any) -> contextlib.AbstractContextManager[None]:
        """In the place of torch.autocast."""
        return _autocast(Tracer.running[-1], *given)

    def checkpoint(self, body: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """In the place of torch.utils.checkpoint.checkpoint: a call of a body."""
        caller = Tracer.running[-1]
        inner = Tracer(caller.shown, caller.file, caller)
        with inner.on():
            results = body(*args)
            several = isinstance(results, tuple)
            made = [inner.here(r) for r in (results if several else (results,))]
        inner.graph.output(tuple(made))
        name = f"wrap_body_{len(caller.bodies)}"
        caller.bodies[name] = inner.module()
        operands = [caller.here(proxy) for proxy in inner.lifted]
        attribute = caller.graph.get_attr(name)
        target = getattr(torch.ops.higher_order, CHECKPOINT)
        call = caller.graph.call_function(target, (attribute, *operands), kwargs)
        for key in (REAL, "example_value"):
            call.meta[key] = tuple(n.meta[key] for n in made)
        call.meta["stack_trace"] = caller.place()
        parts = caller.parts(call, call.meta[REAL])
        return parts if several else parts[0]

    def module(self) -> fx.GraphModule:
        """The finished graph with its bodies, without parts that nobody reads."""
        for node in reversed(list(self.graph.nodes)):
            if node.target is operator.getitem and not node.users:
                self.graph.erase_node(node)
        return fx.GraphModule(dict(self.bodies), self.graph)

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        Tracer.running.append(self)
        try:
            yield
        finally:
            Tracer.running.pop()


class Functions:
    """torch.nn.functional for a program: calls are kept as they are written."""

    def __getattr__(self, name: str) -> Any:
        function = getattr(F, name)
        if function in OWN_NAMES:
            return function
        return lambda *args, **kwargs: Tracer.running[-1].call(
            "call_function", function, args, kwargs
        )


class Calls(TorchFunctionMode):
    """Calls of torch without a proxy: those that make tensors, and switches of modes."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        _: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return Tracer.running[-1].function(func, args, kwargs or {})


@contextlib.contextmanager
def _autocast(tracer: Tracer, device: str, dtype: torch.dtype) -> Iterator[None]:
    given = (device, dtype, True, None)
    entered = tracer.call("call_function", autocast_mode._enter_autocast, given, {})
    try:
        yield
    finally:
        tracer.call("call_function", autocast_mode._exit_autocast, (entered,), {})


@functools.cache
def default(function: Callable[..., Any], name: str) -> Any:
    """Of a parameter: torch names all of them where it hands a call on."""
    try:
        parameters = inspect.signature(function).parameters
    except ValueError:  # a builtin
        return inspect.Parameter.empty
    return parameters[name].default if name in parameters else inspect.Parameter.empty


def run(kind: str, target: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """What a node computes."""
    if kind == "call_method":
        return getattr(args[0], target)(*args[1:], **kwargs)
    return target(*args, **kwargs)


@dataclasses.dataclass(frozen=True)
class Captured:
    """module: the graph. strides: those that torch promises for the results.

    taken: the names of its inputs, in order. results: for each result of the program which output
    of the graph it is, or which input of the program (a name).
    """

    module: fx.GraphModule
    taken: tuple[str, ...]
    results: tuple[int | str, ...]
    strides: tuple[tuple[int, ...], ...]

    def function(self, **inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The program, as its graph is now."""
        outputs = self.module(*(inputs[name] for name in self.taken))
        return tuple(inputs[r] if isinstance(r, str) else outputs[r] for r in self.results)


def captured(
    program: Callable[..., Callable[..., Any]], file: str, inputs: Mapping[str, torch.Tensor]
) -> Captured:
    """program: gives the function with other meanings for the names that it is handed."""
    fakes = Fakes()
    arguments, tracer = Tracer(fakes.of, file), Tracer(fakes.of, file)
    given = {
        name: Traced(arguments.placeholder(f"l_{name}_", tensor), arguments)
        for name, tensor in inputs.items()
    }
    grad = torch.is_grad_enabled()
    try:
        with tracing(TracingContext(fakes.mode)), tracer.on(), Calls():
            function = program(
                F=Functions(), autocast=tracer.autocast, checkpoint=tracer.checkpoint
            )
            results = function(**given)
    finally:
        torch._C._set_grad_enabled(grad)
    outside = {proxy: name for name, proxy in given.items()}
    own = dict.fromkeys(r.node for r in results if r not in outside)
    tracer.graph.output(tuple(own))
    at = {node: index for index, node in enumerate(own)}
    places = tuple(outside[r] if r in outside else at[r.node] for r in results)
    taken = tuple(outside[proxy] for proxy in tracer.lifted)
    strides = tuple(r.node.meta["example_value"].stride() for r in results)
    return Captured(tracer.module(), taken, places, strides)
