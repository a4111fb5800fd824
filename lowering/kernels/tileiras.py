"""The compiler behind cuda-tile as a process that cannot take ours with it.

`found` says which compiler there is, or why there is none; `assemble` turns bytecode into a cubin.
cuda-tile can call the compiler itself, but asks it for its version without a time limit, and waits
for ever for what a killed compiler leaves running. Here every run has a limit and a process group
of its own, which is killed as a whole; a crash, a hang, a full disk and half a cubin are one
BuildError.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import re
import resource
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tile_backend.lowering.cubin_code import is_whole
from tile_backend.lowering.cubin_file import ELF, LARGEST
from tile_backend.lowering.kernels.build_error import BuildError, MissingError
from tile_backend.lowering.python_text import comment

LIMIT = "CUDA_TILE_COMPILER_TIMEOUT_SEC"
DEFAULT_SECONDS = 120.0
"""The heaviest kernel takes about 3 on an idle core."""
VERSION_SECONDS = 20.0
NEWEST_BYTECODE = (13, 4)
"""That cuda-tile 1.7 writes; a newer compiler reads it."""
MOST_HANGS = 2
"""After that many the compiler is not started again: each costs the whole limit."""
LONGEST_MESSAGE = 400
"""Characters of the compiler's own words, which may run to pages."""
LONGEST_ANSWER = 1 << 16
"""Bytes of what it says of its version."""
LARGEST_FILE = 4 * LARGEST
"""Bytes that it may write into one file, its own words among them; more ends it."""


_hung: list[str] = []
"""Kernels at which this process had to kill the compiler."""


@dataclasses.dataclass(frozen=True)
class Compiler:
    """command: its path. version: "13.4.92". bytecode: "13.4", the newest format it reads."""

    command: str
    environment: Mapping[str, str]
    version: str
    bytecode: str


@functools.cache
def found() -> Compiler | MissingError:
    """The compiler where cuda-tile looks for it (packages, PATH, CUDA_HOME), asked once."""
    from cuda.tile import _compile

    try:
        binary = _compile._find_compiler_bin()
    except FileNotFoundError:
        return MissingError("cuda-tile's compiler, tileiras, is not installed")
    paths = {"PATH": binary.bin_path, "LD_LIBRARY_PATH": binary.ld_path}
    environment = os.environ | paths
    if not binary.pass_cuda_home_var:  # another toolkit's ptxas would be taken for its own
        environment = {n: v for n, v in environment.items() if n not in ("CUDA_HOME", "CUDA_PATH")}
    return examined(binary.path, environment)


def examined(command: str, environment: Mapping[str, str]) -> Compiler | MissingError:
    """A compiler that says its version in time."""
    try:
        with tempfile.TemporaryFile() as output:
            code = run([command, "--version"], environment, VERSION_SECONDS, output.fileno())
            output.seek(0)
            said = output.read(LONGEST_ANSWER).decode(errors="replace")
    except OSError as error:  # no folder for temporary files
        return MissingError(f"{command} cannot be used: {error}")
    version = re.search(r"\bV((\d+)\.(\d+)\.\d+)", said)
    if code != 0 or version is None:
        how = "did not answer" if code is None else f"ended with {ended(code)}"
        return MissingError(f"{command} does not run: asked for its version, it {how}")
    release = min((int(version[2]), int(version[3])), NEWEST_BYTECODE)
    return Compiler(command, environment, version[1], ".".join(map(str, release)))


def assemble(compiler: Compiler, name: str, bytecode: bytes, arch: str, opt_level: int) -> bytes:
    """The cubin. name: of the kernel, for messages. Raises BuildError."""
    if len(_hung) >= MOST_HANGS:
        raise BuildError(f"tileiras hung at {' and '.join(_hung)}; it is not started again")
    try:
        with tempfile.TemporaryDirectory(
            prefix="tile-backend-", ignore_cleanup_errors=True
        ) as folder:
            source, target = Path(folder, f"{name}.bytecode"), Path(folder, f"{name}.cubin")
            source.write_bytes(bytecode)
            flags = ("--gpu-name", arch, f"-O{opt_level}", "--lineinfo")
            command = [compiler.command, str(source), "-o", str(target), *flags]
            with Path(folder, "output").open("w+b") as output:
                code = run(command, compiler.environment, seconds(), output.fileno())
                output.seek(0)
                said = output.read(LONGEST_MESSAGE).decode(errors="replace")
            if code is None:
                _hung.append(name)
                raise BuildError(
                    f"tileiras was stopped after {seconds():g} s compiling {name} for {arch}",
                    fix=f"allow it more with {LIMIT}=SECONDS",
                )
            image = target.read_bytes() if code == 0 and target.is_file() else b""
    except OSError as error:
        raise BuildError(f"{name} cannot be compiled for {arch}: {error}") from error
    if not is_whole(image):
        words = comment(" ".join(said.split()))
        how = "half a cubin" if image.startswith(ELF) else ended(code)
        raise BuildError(
            f"tileiras {compiler.version} ended with {how} compiling {name} for {arch}"
            f"{': ' * bool(words)}{words}"
        )
    return image


def seconds() -> float:
    """How long one compile may take; cuda-tile's own variable, which says so for its runs."""
    try:
        given = float(os.environ.get(LIMIT, ""))
    except ValueError:
        return DEFAULT_SECONDS
    return given if given > 0 else DEFAULT_SECONDS


def run(
    command: Sequence[str], environment: Mapping[str, str], limit: float, output: int
) -> int | None:
    """The exit status, negative for a signal; None where it had to be killed.

    limit: in seconds. output: the descriptor of a file for all that it says; a pipe would have to
    be read until the last of its own processes ends.
    """
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=dict(environment),
            start_new_session=True,
        )
    except OSError:
        return 127
    try:
        most = LARGEST_FILE, LARGEST_FILE
        with contextlib.suppress(OSError):  # it has ended, or limits are not ours to set
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, most)
        return process.wait(limit)
    except subprocess.TimeoutExpired:
        return None
    finally:  # also when we are interrupted
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def ended(code: int) -> str:
    """An exit status in words: "status 5", "signal 11 (SIGSEGV)", or that nothing was written."""
    if code >= 0:
        return f"status {code}" if code else "no cubin"
    return f"signal {-code} ({signal.Signals(-code).name})"
