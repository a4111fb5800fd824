"""Every private name of torch that the backend itself uses, each behind one function of ours.

Longer than 300 lines because it is the one place to look when a version of torch renames something.
Checked against torch 2.11, 2.13 and 2.15. (The lowering into Inductor's IR has its own such file,
lowering/inductor_ir.py.)
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, cast
from unittest import mock

import torch
import torch._dynamo
import torch._inductor.compile_fx as compile_fx
from torch import fx
from torch._inductor import config, custom_graph_pass
from torch._inductor.custom_graph_pass import CustomGraphPass

from tile_backend import generated_code, supported
from tile_backend.option_sources import check_inductor_keys
from tile_backend.options import option_infos

# --- what the caller brings -----------------------------------------------------------------------


@functools.cache
def check_supported() -> None:
    """Raise UnsupportedPython or UnsupportedTorch for a version that nobody tried."""
    supported.check_python()
    supported.check_torch(torch.__version__)


def check_options(names: Iterable[str]) -> None:
    """Raise UnknownOption, with the nearest known name, for a key that Inductor does not know."""
    known = list(names)
    if known:
        check_inductor_keys(known, torch._inductor.list_options(), option_infos())


# --- the hand-over to Inductor --------------------------------------------------------------------


class Identity(CustomGraphPass):
    """A pass that only puts our sources, options and versions into the keys of the compile caches.

    A class of the module with its identity in the instance: torch 2.11 pickles it into the key.
    """

    def __init__(self, identity: str) -> None:
        self.identity = identity

    def __call__(self, graph: fx.Graph) -> None:
        """Nothing: the graph was rewritten before."""

    def uuid(self) -> Any:
        return self.identity


@dataclasses.dataclass(frozen=True)
class Inductor:
    """How to compile: the caller's mode and options, and our passes if the graph was rewritten.

    passes: config name of a hook -> our pass, chained after what the user has there.
    generated: told of the generated code, if anybody wants it.
    around: put around what compiles each of the graphs, forward and backward.
    """

    mode: str | None
    options: Mapping[str, Any]
    name: str | None = None
    passes: Mapping[str, CustomGraphPass] = dataclasses.field(default_factory=dict)
    generated: generated_code.Receive | None = None
    around: Callable[[Callable[..., Any]], Callable[..., Any]] | None = None

    def compile(self, module: fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        """Raises what Inductor raises: an unknown option, a wrong type, a failed compile."""
        wrapper = torch._TorchCompileInductorWrapper(self.mode, dict(self.options), None)
        patches = dict(wrapper.config)
        for hook, ours in self.passes.items():
            patches[hook] = chained(patches.get(hook, getattr(config, hook)), ours)
        extra: dict[str, Any] = {"compile_region_name": self.name} if self.name else {}
        inner = _inner_compile[-1]
        if self.around is not None:
            inner = self.around(inner or compile_fx.compile_fx_inner)
        if self.generated is not None:
            inner = generated_code.inner_compile(self.generated, inner)
        if inner is not None:
            extra["inner_compile"] = inner
        with generated_code.received_by(self.generated):
            compiled = compile_fx.compile_fx(module, inputs, config_patches=patches, **extra)
        return cast("Callable[..., Any]", compiled)


def chained(existing: Any, ours: CustomGraphPass) -> Any:
    """Ours after the user's. A hook takes a list in torch 2.13, one pass in torch 2.11."""
    if existing is None:
        return ours
    passes = [*(existing if isinstance(existing, (list, tuple)) else [existing]), ours]
    return passes if hasattr(custom_graph_pass, "get_custom_graph_passes") else Chain(passes)


class Chain(CustomGraphPass):
    """Several passes as one, for torch versions whose hooks take one."""

    def __init__(self, passes: Sequence[Any]) -> None:
        self.passes = tuple(passes)

    def __call__(self, graph: fx.Graph) -> None:
        for one in self.passes:
            one(graph)

    def uuid(self) -> Any:
        identities = [getattr(one, "uuid", lambda: None)() for one in self.passes]
        return None if None in identities else tuple(identities)


_inner_compile: list[Any] = [None]


@contextlib.contextmanager
def without_codegen() -> Iterator[None]:
    """For tests: backend="tilegym" does all but generate code, and runs the ATen graphs."""
    from functorch.compile import make_boxed_func

    def run_graph(module: fx.GraphModule, inputs: Sequence[Any], **_: Any) -> Any:
        return make_boxed_func(module.forward)

    _inner_compile.append(run_graph)
    try:
        yield
    finally:
        _inner_compile.pop()


def reset() -> None:
    """What torch._dynamo.reset() asks of a backend."""
    if torch.cuda.is_available():
        from torch._inductor.cudagraph_trees import reset_cudagraph_trees

        reset_cudagraph_trees()


def keep_told_of_resets(backend: Callable[..., Any]) -> None:
    """torch._dynamo.reset() tells a compiled callable's backend once, and forgets it."""
    from torch._dynamo.eval_frame import cached_backends

    cached_backends.setdefault(id(backend), backend)


def trace_artifact(name: str, encoding: str, payload: Callable[[], str]) -> None:
    """Leave a file in TORCH_TRACE, which tlparse shows; payload is called only if it is set."""
    from torch._logging._internal import trace_structured

    metadata = {"name": name, "encoding": encoding}
    trace_structured("artifact", metadata_fn=lambda: metadata, payload_fn=payload)


# --- what Dynamo knows about the callable ---------------------------------------------------------


def break_reason(module: fx.GraphModule) -> str:
    """Why Dynamo ended the graph before the function did, with file and line, or ""."""
    reason = getattr(module, "compile_subgraph_reason", None)
    return sentence(reason) if reason is not None and reason.graph_break else ""


def sentence(reason: Any) -> str:
    """A GraphCompileReason as "Unsupported print() call at model.py:12"."""
    stack = list(reason.user_stack)
    place = f" at {stack[-1].filename.rsplit('/', 1)[-1]}:{stack[-1].lineno}" if stack else ""
    return f"{str(reason.reason).splitlines()[0]}{place}"


def frames_of_torch() -> Iterator[tuple[str, types.FrameType]]:
    """The frames of torch that lead to the backend call, innermost first, each with its module.

    Of no other frame the variables may be read: on Python 3.11 and 3.12 a frame keeps what it
    showed once, so what a function of the user's deletes later would live as long as it runs.
    """
    frame = sys._getframe(1)
    while frame is not None:
        module = str(frame.f_globals.get("__name__", ""))
        if module == "torch" or module.startswith("torch._dynamo."):
            yield module, frame
        frame = frame.f_back  # type: ignore[assignment]


def caller() -> object | None:
    """What stands for the result of one torch.compile() call: the object that calls the backend."""
    for module, frame in frames_of_torch():
        if module == "torch" and frame.f_code is torch._TorchCompileWrapper.__call__.__code__:
            return cast("object", frame.f_locals["self"])
    return None


def compile_attempt() -> tuple[object, int] | None:
    """Names the frame and the compile of it, and which attempt at that compile this is.

    One attempt calls a backend more than once where DistributedDataParallel cuts its graph.
    """
    from torch._guards import CompileContext

    trace = CompileContext.current_trace_id()
    return None if trace is None else (trace.compile_id, trace.attempt)


@dataclasses.dataclass(frozen=True)
class Place:
    """What is being compiled. title: a class or function name; prefix: the frame's module path.

    After a graph break Dynamo compiles functions of submodules on their own: the prefix is the path
    from the callable that the user compiled to the module whose function this is ("transformer").
    """

    title: str
    prefix: str = ""
    compiled_before: bool = False
    """Another torch.compile() lies inside the one that called us."""


def place() -> Place:
    """Read off the frames that lead to the backend call."""
    from torch._dynamo.output_graph import OutputGraph

    output: Any = None
    root: Any = None
    again = False
    for module, frame in frames_of_torch():
        if output is None and module == "torch._dynamo.output_graph":
            owner = frame.f_locals.get("self")
            output = owner if isinstance(owner, OutputGraph) else None
        if frame.f_code.co_name == "compile_wrapper":
            called = frame.f_locals.get("fn")
            root = getattr(called, "__self__", None)
            again = getattr(called, "__name__", "") == "forward" and is_wrapped(root)
            if root is not None:
                break
    if output is None:
        return Place("graph")
    if isinstance(root, torch.nn.Module):
        return Place(type(root).__name__, prefix_of(output, root), again)
    inner = frame_module(output)
    return Place(str(output.root_tx.f_code.co_name) if inner is None else type(inner).__name__)


def frame_module(output: Any) -> torch.nn.Module | None:
    """The module whose method is being compiled."""
    local = output.local_scope
    found = local.get("self", getattr(local.get("fn"), "__self__", local.get("fn")))
    return found if isinstance(found, torch.nn.Module) else None


def prefix_of(output: Any, root: torch.nn.Module) -> str:
    """The path below `root` to the module whose method is being compiled, or ""."""
    inner = frame_module(output)
    if inner is None or inner is root:
        return ""
    return next((path for path, module in root.named_modules() if module is inner), "")


def is_wrapped(module: Any) -> bool:
    """Whether some result of torch.compile() holds the module.

    torch.compile() of such a result compiles the module's `forward` and leaves no link to it.
    """
    return any(isinstance(d, dict) and "_orig_mod" in d for d in gc.get_referrers(module))


def original(function: Any) -> Any:
    """The module or function inside a compiled one."""
    if isinstance(function, torch._dynamo.OptimizedModule):
        return function._orig_mod
    if isinstance(function, torch.nn.Module) and function._compiled_call_impl is not None:
        return function._call_impl  # what module.compile() compiled
    return getattr(function, "_torchdynamo_orig_callable", function)


# --- capture without running ----------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Capture:
    """visited: what `visit` returned for the first graph, None where there was no graph.

    break_reason: why that graph is not all of the function, or "".
    """

    visited: Any
    break_reason: str = ""


RESTART = torch._dynamo.exc.RestartAnalysis
"""Raised by a compile, and meant for Dynamo: it captures again, with fewer dynamic sizes."""
_captured_inputs: list[Sequence[Any]] = []


def captured_inputs() -> list[Any]:
    """Inside the `visit` of a capture: what a compile of the graph would be given."""
    return list(_captured_inputs[-1])


class Captured(Exception):
    """Stops a compile once the graph is there, or before real code would have to run."""


def capture(
    function: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    visit: Callable[[fx.GraphModule], Any],
    dynamic: bool | None = None,
) -> Capture:
    """Calls `visit` with the graph that Dynamo hands over for this call, inside the backend call.

    dynamic: as torch.compile takes it.
    Runs nothing; no entry stays in Dynamo's caches. The graph must not be kept: from torch 2.15 on
    Dynamo empties it when the compile is stopped, as it is here.
    Dynamo ends a graph where it needs real code to run; when nothing was captured until there, it
    runs that code without asking the backend. So the end of every graph is watched, too.
    """
    reasons: list[str] = []
    visited: list[Any] = []
    failures: list[Exception] = []

    def keep(module: fx.GraphModule, inputs: Sequence[Any]) -> Any:
        _captured_inputs.append(inputs)
        try:
            visited.append(visit(module))
        except RESTART:  # a compile inside the visit wants a number fixed: Dynamo calls again
            raise
        except Exception as error:  # noqa: BLE001 - Dynamo would wrap it; raised below as it is
            failures.append(error)
        finally:
            _captured_inputs.pop()
        raise Captured

    # Only sizes are dynamic: a number is what it is in this call.
    patches = torch._dynamo.config.patch(suppress_errors=False, specialize_float=True)
    devices = range(torch.cuda.device_count())
    with (
        patches,
        torch.random.fork_rng(devices=devices),
        watched_ends(reasons),
        attributes_kept(function),
    ):
        compiled: Callable[..., Any] = torch.compile(function, backend=keep, dynamic=dynamic)
        try:
            compiled(*args, **kwargs)
        except Exception:
            if not (visited or failures or reasons):  # not ours: torch wraps what we raise
                raise
    if failures:
        raise failures[0]
    return Capture(visited[0] if visited else None, reasons[0] if reasons else "")


@contextlib.contextmanager
def attributes_kept(function: Any) -> Iterator[None]:
    """Takes back what torch.compile writes into the module it is given: `_is_torch_compile`."""
    known = set(vars(function)) if isinstance(function, torch.nn.Module) else None
    try:
        yield
    finally:
        for name in set(vars(function)) - known if known is not None else ():
            delattr(function, name)


@contextlib.contextmanager
def watched_ends(reasons: list[str]) -> Iterator[None]:
    """Inside, a graph that ends early leaves its reason.

    The compile stops where real code would run before the first graph: the graph is empty, or
    Dynamo gives the whole function up.
    """
    from torch._dynamo.convert_frame import ConvertFrameAssert
    from torch._dynamo.exc import Unsupported
    from torch._dynamo.output_graph import OutputGraph
    from torch._dynamo.utils import count_calls

    ends, convert = OutputGraph.compile_subgraph, ConvertFrameAssert.__call__

    def compile_subgraph(self: Any, tx: Any, reason: Any, *args: Any, **kwargs: Any) -> Any:
        if reason.graph_break:
            reasons.append(sentence(reason))
            if count_calls(self.graph) == 0:
                raise Captured
        return ends(self, tx, reason, *args, **kwargs)

    def convert_frame(self: Any, frame: Any, *args: Any, **kwargs: Any) -> Any:
        try:
            return convert(self, frame, *args, **kwargs)
        except Unsupported as error:
            stack = list(getattr(error, "real_stack", None) or [])
            place = f"{stack[-1].filename}:{stack[-1].lineno}" if stack else frame.f_code.co_name
            what = str(error).splitlines()[0]
            reasons.append(f"{what} at {place.rsplit('/', 1)[-1]}")
            raise Captured from error

    with (
        mock.patch.object(OutputGraph, "compile_subgraph", compile_subgraph),
        mock.patch.object(ConvertFrameAssert, "__call__", convert_frame),
    ):
        yield
