"""`kernel(function, **hints)`: the one kernel of a function and its compiler hints.

A kernel object owns the launcher's table of compiled variants, so it is made once per set of hints
and kept. The kernel functions themselves stay plain functions: what is inlined where can be read
and tested. Code comes from the kernel store, and only what the store lacks from the compiler.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import types
from collections.abc import Callable
from typing import Any

import cuda.tile as ct
from cuda.tile.compilation import export_kernel

from tile_backend.lowering import cubin_store, failure
from tile_backend.lowering.cubin_file import Cubin, Key
from tile_backend.lowering.kernel_code import Code
from tile_backend.lowering.kernels import kernel_source, tileiras
from tile_backend.lowering.kernels.build_error import BuildError, MissingError
from tile_backend.lowering.kernels.signature import weaken

ARRAY, WIDE_ARRAY = "ct.Array", "ct.IndexedWithInt64[ct.Array]"
"""Annotations of parameters; kernel files write the first (they have postponed annotations)."""
HOW_TO_GET_IT = (
    "install the compiler with: pip install 'tile-backend[kernels]', or where it is installed fill"
    " a store with: python -m tile_backend precompile TARGET --arch {arch} --out FOLDER, and set"
    f" {cubin_store.FOLDER}=FOLDER here"
)


class Kernel(ct.kernel):  # type: ignore[misc]  # cuda-tile is not looked into
    """A `cuda.tile.kernel` whose code for one signature is looked up before it is compiled."""

    def __init__(self, function: Callable[..., None], /, **hints: Any) -> None:
        super().__init__(function, **hints)
        self.name = function.__name__
        self._hints = hints
        self._failed: dict[Key, BuildError] = {}

    @functools.cached_property
    def wide(self) -> Kernel:
        """The same kernel for arrays of 2**31 elements and more: indices are int64.

        Another kernel, since the wider arithmetic costs registers.
        """
        narrow = self._pyfunc
        function = types.FunctionType(
            narrow.__code__, narrow.__globals__, self.name, None, narrow.__closure__
        )
        function.__annotations__ = {
            name: WIDE_ARRAY if annotation == ARRAY else annotation
            for name, annotation in narrow.__annotations__.items()
        }
        function.__module__, function.__qualname__ = narrow.__module__, narrow.__qualname__
        return Kernel(function, **self._hints)

    def code(self, signature: Any, arch: str) -> Code:
        """What runs for a signature as `signature_for` makes it, on "sm_90", say.

        One variant serves many signatures, so a weaker one is compiled.
        """
        weaker = weaken(signature, self).with_mangled_symbol(self.name)
        options = self._compiler_options
        hints = {target: dict(values) for target, values in options.hints_by_target().items()}
        source = kernel_source.digest(self._pyfunc)
        content = json.dumps([weaker.symbol, hints, source, ct.__version__], sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()[:32]
        return Code(self, weaker, Key(self.name, arch, digest))

    def build(self, code: Code) -> Cubin:
        """The code, compiled where the store lacks it. Raises BuildError."""
        found = self.lookup(code.key)
        if isinstance(found, Cubin):
            return found
        try:
            image = self._compiled(found, code.signature, code.key.arch)
        except BuildError as error:
            self._failed[code.key] = error
            raise
        made = Cubin(image, code.signature.symbol)
        put = cubin_store.default().put
        failure.instead(False, f"storing {self.name}", None, put, code.key, found.version, made)
        return made

    def lookup(self, key: Key) -> Cubin | tileiras.Compiler:
        """The code of that key, or else the compiler that may make it. Raises BuildError."""
        compiler = tileiras.found()
        store = cubin_store.default()
        version = None if isinstance(compiler, MissingError) else compiler.version
        known = failure.instead(None, f"looking up {self.name}", None, store.get, key, version)
        if known is not None:
            return known
        if isinstance(compiler, MissingError):
            raise MissingError(
                f"{self.name} for {key.arch} is not in the kernel store {store.folder}, and"
                f" {compiler}",
                fix=HOW_TO_GET_IT.format(arch=key.arch),
            )
        if key in self._failed:
            raise self._failed[key]
        return compiler

    def bytecode(self, signature: Any, arch: str, version: str) -> bytes:
        """Tile IR, as the compiler takes it. version: of its format, "13.4". Raises BuildError."""
        bytecode = io.BytesIO()
        form = {"output_format": "tileir_bytecode", "bytecode_version": version}
        try:
            export_kernel(self, [signature], bytecode, gpu_code=arch, **form)
        except ct.TileError as error:
            place = f" at {error.loc}" if error.loc.filename else ""
            raise BuildError(
                f"cuda-tile cannot compile {self.name} for {arch}: {error.message}{place}"
            ) from error
        return bytecode.getvalue()

    def _compiled(self, compiler: tileiras.Compiler, signature: Any, arch: str) -> bytes:
        bytecode = self.bytecode(signature, arch, compiler.bytecode)
        level = self._compiler_options.opt_level_for_target(arch)
        return tileiras.assemble(compiler, self.name, bytecode, arch, level)

    def _compile(
        self, signature: Any, context: Any, compute_capability: tuple[int, int]
    ) -> tuple[bytes, str, None, tuple[()]]:
        """Called by the launcher for arguments of a kind that it has no code for yet."""
        major, minor = compute_capability
        cubin = self.build(self.code(signature, f"sm_{major}{minor}"))
        return cubin.image, cubin.symbol, None, ()


@functools.cache
def kernel(function: Callable[..., None], **hints: Any) -> Kernel:
    """`hints` are those of `ct.kernel`: `num_worker_warps`, `occupancy`, ... ."""
    return Kernel(function, **hints)
