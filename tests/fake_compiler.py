"""A shell script in the place of tileiras, told by the tests how to behave, and an empty store."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from cuda.tile import _compile

from tile_backend.lowering import cubin_store, kernel_launch, launch_recipe
from tile_backend.lowering.kernels import compiled, tileiras

FAKE_CUBIN = (
    b"\x7fELF\2\1\1".ljust(0x20, b"\0")
    + struct.pack("<QQIHHHHHH", 0, 64, 0, 64, 0, 0, 64, 1, 5)
    + bytes(64)
    + b" of a test\n"
)
"""A file with one empty section, and none that holds code."""
RELEASE = "Cuda compilation tools, release 13.4, V13.4.92"
CACHES: tuple[Any, ...] = (
    *(cubin_store._warn, cubin_store._opened, tileiras.found),
    *(compiled.kernel, launch_recipe.recipe, kernel_launch.warn_once),
)
OCTAL = "".join(f"\\{byte:03o}" for byte in FAKE_CUBIN)
WRITE = f"printf '{OCTAL}' > $3"
HALF = f"printf '{OCTAL[: len(OCTAL) // 8 * 4]}' > $3"
"""The first half of it."""


@dataclasses.dataclass
class Tileiras:
    """The script, its log and the store. Each change takes effect at the next run."""

    command: pathlib.Path
    store: pathlib.Path
    patch: pytest.MonkeyPatch
    version: str = RELEASE
    body: str = WRITE
    home: bool = False

    def answers(self, version: str) -> None:
        """What it says to --version."""
        self.version = version
        self.write()

    def compiles_with(self, body: str) -> None:
        """What it does to compile $1 into $3."""
        self.body = body
        self.write()

    def kept_home(self, kept: bool) -> None:
        """Whether it is one of those that are told of CUDA_HOME."""
        self.home = kept
        self.write()

    def write(self) -> None:
        log = self.command.with_suffix(".log")
        self.script(
            f'[ "$1" = --version ] && {{ echo "{self.version}"; exit; }}\n'
            f'for word in "$@"; do echo "$word"; done >> {log}\necho >> {log}\n'
            f"env > {self.command.with_suffix('.env')}\n{self.body}"
        )

    def script(self, text: str) -> None:
        self.command.write_text(f"#!/bin/sh\n{text}\n")
        self.command.chmod(0o755)
        binary = _compile._CompilerBinary(str(self.command), "/usr/bin:/bin", "", self.home)
        self.patch.setattr(_compile, "_find_compiler_bin", lambda: binary)
        tileiras.found.cache_clear()

    def remove(self) -> None:
        """No compiler anywhere."""

        def missing() -> None:
            raise FileNotFoundError("'tileiras' compiler not found")

        self.patch.setattr(_compile, "_find_compiler_bin", missing)
        tileiras.found.cache_clear()

    def compiles(self) -> list[list[str]]:
        """The arguments of every compile so far."""
        log = self.command.with_suffix(".log")
        runs = log.read_text().split("\n\n") if log.exists() else []
        return [run.split("\n") for run in runs if run]

    def environment(self) -> str:
        """Of the newest compile."""
        return self.command.with_suffix(".env").read_text()


@contextlib.contextmanager
def installed(folder: pathlib.Path, patch: pytest.MonkeyPatch) -> Iterator[Tileiras]:
    """Until the end of the block cuda-tile finds this compiler, and kernels go to its store.

    What the process knows of kernels, stores and compilers is forgotten before and after.
    """
    fake = Tileiras(folder / "tileiras", folder / "store", patch)
    fake.write()
    patch.setenv("TILEGYM_KERNEL_STORE", str(fake.store))
    patch.setattr(tileiras, "_hung", [])
    for cache in CACHES:
        cache.cache_clear()
    yield fake
    patch.undo()
    for cache in CACHES:
        cache.cache_clear()
