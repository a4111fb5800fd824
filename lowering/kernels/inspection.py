"""A kernel for people to look at: its Tile IR, and what its code takes of a multiprocessor.

Neither a driver nor a GPU is needed. What a missing tool leaves out is an InspectionError that
says which package has it.
"""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tile_backend.lowering import cubin_usage, multiprocessor
from tile_backend.lowering.cubin_usage import Usage
from tile_backend.lowering.kernel_code import Code
from tile_backend.lowering.kernels import tileiras
from tile_backend.lowering.kernels.build_error import BuildError, MissingError
from tile_backend.lowering.kernels.compiled import Kernel

DISASSEMBLER = "tileirdisasm"
SECONDS = 60.0


class InspectionError(Exception):
    """The sentence says what is missing, and how to have it."""


def tile_ir(kernel: Kernel, signature: Any, arch: str) -> str:
    """What cuda-tile's front end hands to the compiler, as text. Raises InspectionError."""
    compiler = tileiras.found()
    if isinstance(compiler, MissingError):
        raise InspectionError(f"{compiler}: pip install 'tile-backend[kernels]'")
    beside = Path(compiler.command).with_name(DISASSEMBLER)
    command = str(beside) if beside.is_file() else shutil.which(DISASSEMBLER)
    if command is None:
        raise InspectionError(f"{DISASSEMBLER} is not there: pip install nvidia-cuda-tileiras")
    try:
        weaker = kernel.code(signature, arch).signature
        bytecode = kernel.bytecode(weaker, arch, compiler.bytecode)
    except BuildError as error:
        raise InspectionError(str(error)) from error
    try:
        with tempfile.NamedTemporaryFile(suffix=".bytecode") as file:
            file.write(bytecode)
            file.flush()
            done = subprocess.run(
                [command, file.name], capture_output=True, text=True, check=False, timeout=SECONDS
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise InspectionError(f"{DISASSEMBLER} cannot be run: {error}") from error
    if done.returncode:
        raise InspectionError(f"{DISASSEMBLER} ended with {tileiras.ended(done.returncode)}")
    return done.stdout.strip()


@dataclasses.dataclass(frozen=True)
class Resources:
    """Of one block, as compiled. size: of the code, in bytes.

    blocks, most_warps: that fit one multiprocessor; None where that is not known.
    """

    usage: Usage
    size: int
    blocks: int | None
    most_warps: int | None

    @property
    def warps(self) -> int:
        """Of one block."""
        return -(-self.usage.threads // multiprocessor.WARP)


def resources(kernel: Kernel, signature: Any, arch: str) -> Resources:
    """Compiles the kernel where the store lacks it. Raises InspectionError."""
    return resources_of(kernel, kernel.code(signature, arch))


def resources_of(kernel: Kernel, code: Code) -> Resources:
    """The same of a variant of the kernel."""
    try:
        image = kernel.build(code).image
    except BuildError as error:
        raise InspectionError(str(error)) from error
    try:
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(image)
            file.flush()
            usage = cubin_usage.usage(Path(file.name))
    except (OSError, subprocess.SubprocessError) as error:
        raise InspectionError(str(error)) from error
    limits = multiprocessor.LIMITS.get(code.key.arch)
    if limits is None:
        return Resources(usage, len(image), None, None)
    blocks = multiprocessor.resident_blocks(
        code.key.arch, usage.threads, usage.registers, usage.shared
    )
    return Resources(usage, len(image), blocks, limits.warps)
