"""`python -m tile_backend precompile`: a model's kernels in a store, compiled without a GPU.

The model is captured as `explain` does it; every site that it fuses gets its kernel, whatever the
gate would choose. Sizes are those of the inputs, or with `dynamic` those that the graph allows, as
far as kernels differ. A machine with that store needs no compiler.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tile_backend import inductor, machine, pipeline, registry
from tile_backend.errors import MissingDependency, PrecompileFailed, UnknownArchitecture
from tile_backend.lowering import cubin_store, kernel_code, site_kernels
from tile_backend.lowering.cubin_file import Cubin
from tile_backend.lowering.kernel_code import Code
from tile_backend.lowering.kernels.build_error import MissingError
from tile_backend.lowering.reason import Reason
from tile_backend.lowering.site_kernels import LaunchSite
from tile_backend.options import Options
from tile_backend.report_text import aligned, plural

if TYPE_CHECKING:
    from torch import fx

    from tile_backend.lowering.legality import Call
    from tile_backend.targets import Target

INSTALL = "pip install 'tile-backend[kernels]'"
OLDEST = 80


@dataclasses.dataclass(frozen=True)
class Precompiled:
    """What became of each kernel. rows: kernel, architecture, how many sites, outcome."""

    folder: Path
    rows: tuple[tuple[str, str, str, str], ...]
    kernels: int
    size: int
    stopped: str = ""

    def to_text(self) -> str:
        """One line per kernel, then the totals and what to do with the folder."""
        lines = aligned(self.rows)
        lines.append(
            f"{self.folder}: {self.kernels} kernel{plural(self.kernels)}, {self.size / 1024:.0f}"
            f" KiB; set {cubin_store.FOLDER}={self.folder} where they are to run"
        )
        if self.stopped:
            lines.append(f"incomplete  {self.stopped}; what comes after it is not compiled")
        return "\n".join(lines)


def precompile(
    target: Target, architectures: Sequence[str], folder: str | None, dynamic: bool = False
) -> Precompiled:
    """Fill the store in `folder`, or the default one. architectures: of this machine's GPUs if ().

    Raises UnknownArchitecture, MissingDependency or PrecompileFailed.
    """
    architectures = checked(architectures)
    if folder is not None:
        os.environ[cubin_store.FOLDER] = str(Path(folder).resolve())
    return built(*sites_of(target, architectures, dynamic))


def sites_of(
    target: Target, architectures: Sequence[str], dynamic: bool = False
) -> tuple[collections.Counter[LaunchSite], str]:
    """The target's launches on each architecture, counted; where its graph ended early, why."""
    captured = capture(target, dynamic)
    sites: collections.Counter[LaunchSite] = collections.Counter()
    for site, count in (captured.visited or collections.Counter()).items():
        for arch in architectures:
            sites[dataclasses.replace(site, arch=arch)] += count
    return sites, captured.break_reason


def checked(architectures: Sequence[str]) -> list[str]:
    """The architectures asked for, else those of this machine, each once."""
    found = list(dict.fromkeys(architectures or (gpu.arch for gpu in machine.gpus())))
    for arch in found:
        number = re.fullmatch(r"sm_(\d{2,3})", arch)
        if number is None or int(number[1]) < OLDEST:
            raise UnknownArchitecture(found=repr(arch))
    if not found:
        raise UnknownArchitecture(found="nothing, and this machine has no GPU")
    return found


def capture(
    target: Target,
    dynamic: bool,
    of_call: Callable[[Call], Iterable[Any]] = LaunchSite.all_of,
    training: bool = False,
) -> inductor.Capture:
    """What `of_call` makes of the calls of ops in the target's graph, as a Counter.

    training: the graph is one that autograd follows.
    """
    options, _ = Options.parse({"tilegym.kernels": "always"}, known=registry.names)
    visit = functools.partial(launches_of, options, of_call)
    with torch.set_grad_enabled(training):
        return inductor.capture(
            inductor.original(target.function), target.args, target.kwargs, visit, dynamic or None
        )


def launches_of(
    options: Options, of_call: Callable[[Call], Iterable[Any]], module: fx.GraphModule
) -> collections.Counter[Any]:
    """For each op that the backend would put into the graph; identical ones are counted."""
    found = pipeline.analyse(module, options)
    candidates = (candidate for _, accepted in found.accepted for candidate in accepted)
    return collections.Counter(
        site
        for candidate in candidates
        if candidate.call is not None
        for site in of_call(candidate.call)
    )


def built(sites: collections.Counter[LaunchSite], stopped: str) -> Precompiled:
    """Compile what the sites need and the store lacks."""
    try:
        needs = {site: list(site_kernels.needs_of(site, fallbacks=True)) for site in sites}
    except ImportError as error:
        raise missing("cuda-tile", error) from error
    codes: collections.Counter[Code] = collections.Counter()
    for site, found in needs.items():
        for code in {need.code for need in found if need.code is not None}:
            codes[code] += sites[site]
    there = {code for code in codes if is_stored(code)}
    failed = kernel_code.missing(codes, compiles=True)
    if failed:
        raise PrecompileFailed(count=len(failed), lines="\n".join(failures(failed)))
    store = cubin_store.default()
    files = {path.name: size for _, size, path in store.files()}
    sizes = {
        code: size
        for code in codes
        for name, size in files.items()
        if name.startswith(f"{code.key}-")
    }
    if lost := codes.keys() - sizes.keys():
        lines = f"  {store.folder} cannot be written, or holds fewer: {cubin_store.LIMIT}"
        raise PrecompileFailed(count=len(lost), lines=lines)
    rows = [
        (code.key.kernel, code.key.arch, f"x{count}", outcome(code in there, sizes[code]))
        for code, count in codes.items()
    ]
    rows += refusals(needs, sites)
    return Precompiled(store.folder, tuple(sorted(rows)), len(codes), sum(sizes.values()), stopped)


def is_stored(code: Code) -> bool:
    """Whether nothing has to be compiled. Raises MissingDependency where nothing can be."""
    try:
        return isinstance(code.kernel.lookup(code.key), Cubin)
    except MissingError as error:
        raise missing("tileiras", error.reason.text) from error


def outcome(was_there: bool, size: int) -> str:
    """What happened to one kernel."""
    return f"{'was there' if was_there else 'compiled'}, {size / 1024:.0f} KiB"


def failures(failed: dict[Code, Reason]) -> Iterator[str]:
    """One line for each kernel that could not be compiled."""
    for code, reason in failed.items():
        yield f"  {code.key.kernel} {code.key.arch}: {reason}"


def refusals(
    needs: dict[LaunchSite, list[site_kernels.Need]], sites: collections.Counter[LaunchSite]
) -> Iterator[tuple[str, str, str, str]]:
    """A row for each launch whose kernel does not take some of its sizes."""
    for site, found in needs.items():
        for need in found:
            if need.refusal is not None:
                where = f"at {need.sizes} " if need.sizes else ""
                text = f"{where}runs its reference: {need.refusal}"
                yield site.op, site.arch, f"x{sites[site]}", text


def missing(package: str, cause: Any, what: str = "precompile") -> MissingDependency:
    """The error, to be raised by the caller."""
    return MissingDependency(what=what, package=package, cause=cause, command=INSTALL)
