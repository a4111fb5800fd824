"""cuda-tile's real launcher on a machine without a GPU: a stub of the CUDA driver under it.

`install()` builds stub_driver.c once (it needs the C++ compiler that torch.compile needs), puts it
where cuda-tile looks for the driver, and gives the `Driver`, which remembers what was launched. It
lasts as long as the process, since cuda-tile asks once: tests that use it are marked `stub`.

`gpu` makes our launch path take CPU tensors for tensors of cuda:0.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import importlib.util
import os
import shlex
import subprocess
import sys
import sysconfig
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from tile_backend.lowering import cuda_state, kernel_launch, launch_abi1

SOURCE = Path(__file__).with_name("stub_driver.c")
CACHE = Path(__file__).resolve().parents[2] / ".cache" / "stub_driver"
STREAM = 0x1000
"""The stream of device i that `gpu` makes current is STREAM * (i + 1)."""
ARCHITECTURES = ("sm_90", "sm_100")
KEPT, PARAMETERS = 256, 128


class Launch(ctypes.Structure):
    """One call of cuLaunchKernelEx."""

    _fields_ = (
        ("_kernel", ctypes.c_char * 4096),
        ("_grid", ctypes.c_uint * 3),
        ("_block", ctypes.c_uint * 3),
        ("stream", ctypes.c_uint64),
        ("device", ctypes.c_int),
        ("n_attributes", ctypes.c_int),
        ("_parameters", ctypes.c_uint64 * PARAMETERS),
    )

    @property
    def kernel(self) -> str:
        """The symbol in the cubin."""
        return bytes(self._kernel).decode()

    @property
    def grid(self) -> tuple[int, int, int]:
        x, y, z = self._grid
        return x, y, z

    @property
    def block(self) -> tuple[int, int, int]:
        x, y, z = self._block
        return x, y, z

    def words(self, count: int, signed_bits: int = 64) -> list[int]:
        """The first parameters as integers of so many bits; `Driver.recording` says how many."""
        mask, sign = (1 << signed_bits) - 1, 1 << (signed_bits - 1)
        return [((word & mask) ^ sign) - sign for word in self._parameters[:count]]

    def float32(self, index: int) -> float:
        """One parameter as a float32."""
        low = ctypes.c_uint32(self._parameters[index] & 0xFFFFFFFF)
        return float(ctypes.c_float.from_buffer(low).value)


class Driver:
    """What the stub saw, and what it shall do."""

    def __init__(self, library: ctypes.CDLL, module: Any) -> None:
        self._library = library
        self.module = module
        self._launches = (Launch * KEPT).in_dll(library, "launches")
        library.calls.restype = ctypes.c_long

    def number(self, name: str) -> Any:
        """A C int that a test may set: current_device, capturing, load_error, launch_error."""
        return ctypes.c_int.in_dll(self._library, name)

    @property
    def launched(self) -> int:
        """Launches so far."""
        return ctypes.c_long.in_dll(self._library, "n_launches").value

    @property
    def loaded(self) -> int:
        """Cubins loaded so far."""
        return ctypes.c_long.in_dll(self._library, "n_loads").value

    def since(self, before: int) -> list[Launch]:
        """Copies of the launches after the first `before`; the stub keeps the last KEPT."""
        numbers = range(before, self.launched)
        assert len(numbers) <= KEPT, "the stub has forgotten some of these launches"
        return [Launch.from_buffer_copy(self._launches[i % KEPT]) for i in numbers]

    def calls(self, entry: str) -> int:
        """How often a driver entry was called since `forget_calls`."""
        return int(self._library.calls(entry.encode()))

    def forget_calls(self) -> None:
        """Start counting anew."""
        self._library.forget_calls()

    @contextlib.contextmanager
    def recording(self, parameters: int) -> Iterator[None]:
        """Launches inside keep that many parameters, of which there must be as many."""
        self.number("parameters_to_copy").value = parameters
        yield
        self.number("parameters_to_copy").value = 0


def built() -> Path:
    """The library, compiled unless that was done before."""
    compiler = shlex.split(os.environ.get("CXX", "g++"))
    flags = ["-x", "c++", "-shared", "-fPIC", "-O2", "-I", sysconfig.get_path("include")]
    content = [SOURCE.read_bytes(), *(word.encode() for word in (*compiler, *flags))]
    digest = hashlib.sha256(b"\0".join(content)).hexdigest()[:16]
    library = CACHE / digest / f"stub_driver{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        fresh = library.with_suffix(f".{os.getpid()}")
        subprocess.run([*compiler, *flags, str(SOURCE), "-o", str(fresh)], check=True)
        fresh.replace(library)
    return library


@functools.cache
def install() -> Driver:
    """Put the stub under cuda-tile, once for the life of the process."""
    if torch.cuda.is_available():
        raise RuntimeError("this process has a GPU, and cuda-tile can have one driver only")
    path = built()
    library = ctypes.CDLL(str(path))
    loader: Any = types.ModuleType("cuda.tile._load_libcuda")
    loader.entry = library.cuGetProcAddress_v2  # kept alive
    loader.cuGetProcAddress_v2_ptrptr = ctypes.addressof(loader.entry)
    sys.modules[loader.__name__] = loader
    spec = importlib.util.spec_from_file_location("stub_driver", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with mock.patch.object(torch._C, "_to_dlpack", module.relabelled):
        _first_launch()
    return Driver(library, module)


def _first_launch() -> None:
    """The launcher looks up torch._C._to_dlpack at its first tensor, and keeps what it found."""
    import cuda.tile as ct

    class Empty(ct.kernel):  # type: ignore[misc]
        def _compile(self, *_: Any) -> tuple[bytes, str, None, tuple[()]]:
            return b"\x7fELF", "empty", None, ()

    def empty(x: Any) -> None:
        pass

    ct.launch(0, (1,), Empty(empty), (torch.empty(1),))


@contextlib.contextmanager
def gpu(driver: Driver, device: int = 0) -> Iterator[None]:
    """Inside, CPU tensors are launched on as if they lay on cuda:`device`, by fresh launchers."""

    @contextlib.contextmanager
    def on(index: int) -> Iterator[None]:
        current = driver.number("current_device")
        before, current.value = current.value, index
        yield
        current.value = before

    ops = [name for name, value in vars(launch_abi1).items() if name[0] != "_" and callable(value)]
    with (
        mock.patch.object(kernel_launch, "gpu_of", return_value=device),
        mock.patch.object(cuda_state, "current_device", driver.module.current_device),
        mock.patch.object(cuda_state, "raw_stream", driver.module.raw_stream),
        mock.patch.object(cuda_state, "on", on),
        mock.patch.object(cuda_state, "architecture", ARCHITECTURES.__getitem__),
        mock.patch.object(kernel_launch, "_calls", {}),
        mock.patch.dict(vars(launch_abi1)),
    ):
        for op in ops:
            delattr(launch_abi1, op)
        yield
