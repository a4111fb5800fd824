"""A kernel built so that the compiler's remarks are kept beside its code in the kernel store.

Asking for remarks changes neither the code nor the time it takes. What a store holds without
remarks is compiled again, once; processes that want the same kernel take turns.
"""

from __future__ import annotations

import contextlib
import fcntl
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from tile_backend.lowering import cubin_store
from tile_backend.lowering.cubin_file import SUFFIX, Cubin
from tile_backend.lowering.kernels import tileiras
from tile_backend.lowering.kernels.build_error import MissingError

REMARKS = ".remarks.yaml"
_wanted = threading.local()
"""`path`: where the remarks of this thread's compile go."""


def beside(code: Path, suffix: str) -> Path:
    """The file that belongs to the file of a compiled kernel."""
    return code.with_name(code.name.removesuffix(SUFFIX) + suffix)


def build(kernel: Any, code: Any) -> Cubin:
    """`kernel.build(code)`, and its remarks in the store's folder. Raises BuildError."""
    compiler = tileiras.found()
    if isinstance(compiler, MissingError):
        return kernel.build(code)  # type: ignore[no-any-return]
    path = cubin_store.default().path(code.key, compiler.version)
    _wanted.path = beside(path, REMARKS)
    with turn(path.parent / "locks" / path.name):
        if not _wanted.path.exists():
            path.unlink(missing_ok=True)
        return kernel.build(code)  # type: ignore[no-any-return]


@contextlib.contextmanager
def turn(path: Path) -> Iterator[None]:
    """One thread of one process at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Every compile of `build` writes its remarks."""
    plain = tileiras.run

    def run(
        command: Sequence[str], environment: Mapping[str, str], limit: float, output: int
    ) -> int | None:
        if "-o" not in command:
            return plain(command, environment, limit, output)
        path: Path = _wanted.path
        fresh = path.with_suffix(".tmp")
        fresh.touch()
        flags = ("--remarks=all", "--remark-format=yaml", f"--remarks-output-file={fresh}")
        code = plain([*command, *flags], environment, limit, output)
        if code == 0:
            fresh.replace(path)
        fresh.unlink(missing_ok=True)
        return code

    with mock.patch.object(tileiras, "run", run):
        yield
