"""Compiling one kernel: what runs the compiler survives whatever it does, and says it in words."""

from __future__ import annotations

import pathlib
import time
from typing import Any

import cuda.tile as ct
import pytest
import torch
from cuda.tile import _compile

from tests import small_kernels
from tests.fake_compiler import FAKE_CUBIN, HALF, WRITE, Tileiras
from tests.small_kernels import doubled
from tile_backend.lowering import cubin_store
from tile_backend.lowering.kernels import compiled, kernel_source, tileiras
from tile_backend.lowering.kernels.build_error import BuildError, MissingError
from tile_backend.lowering.kernels.signature import signature_for
from tile_backend.lowering.reason import ReasonKind


def unsupported(x: ct.Array) -> None:
    """Three is no power of two."""
    ct.store(x, (0,), ct.load(x, (0,), (3,)))


def arguments(size: int = 256) -> tuple[Any, ...]:
    x = torch.empty(size, dtype=torch.bfloat16, device="meta")
    return x, x, 128


def build(arch: str = "sm_90", function: Any = doubled, **hints: int) -> Any:
    """A kernel object of its own, without what the last one learnt."""
    kernel = compiled.Kernel(function, **hints)
    args = arguments() if function is doubled else arguments()[:1]
    return kernel.build(kernel.code(signature_for(kernel, args), arch))


@pytest.fixture
def fake(tileiras: Tileiras) -> Tileiras:
    """The same under a name of its own, beside the module."""
    return tileiras


def test_a_kernel_is_compiled_once(fake: Tileiras) -> None:
    made = build()
    assert made.image == FAKE_CUBIN
    assert made.symbol.startswith("doubled_K")
    assert build() == made
    (command,) = fake.compiles()
    assert command[1:] == ["-o", command[2], "--gpu-name", "sm_90", "-O3", "--lineinfo"]
    assert pathlib.Path(command[0]).name == "doubled.bytecode"
    assert not pathlib.Path(command[0]).parent.exists(), "temporary files stay"
    assert len(list(fake.store.iterdir())) == 1


def test_each_of_source_signature_architecture_hints_and_versions_is_another_kernel(
    fake: Tileiras, monkeypatch: pytest.MonkeyPatch
) -> None:
    build()
    build("sm_80")
    build(occupancy=2)
    kernel = compiled.Kernel(doubled)
    kernel.build(kernel.code(signature_for(kernel, arguments(251)), "sm_90"))
    kernel.wide.build(kernel.wide.code(signature_for(kernel.wide, arguments()), "sm_90"))
    fake.answers("release 13.5, V13.5.2")
    build()
    with monkeypatch.context() as patch:
        patch.setattr(ct, "__version__", "1.7.9")
        build()
    monkeypatch.setattr(small_kernels, "DOUBLE", 3.0)
    kernel_source.digest.cache_clear()
    build()
    kernel_source.digest.cache_clear()
    assert len(fake.compiles()) == 8
    assert len(list(fake.store.iterdir())) == 8


def test_a_damaged_entry_is_compiled_again(fake: Tileiras) -> None:
    made = build()
    (file,) = fake.store.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    with pytest.warns(cubin_store.StoreWarning, match="is ignored"):
        assert build() == made
    assert file.read_bytes() == whole
    assert len(fake.compiles()) == 2


def test_a_store_serves_without_a_compiler(fake: Tileiras) -> None:
    made = build()
    fake.remove()
    assert build() == made


def test_neither_store_nor_compiler_says_which_to_install(fake: Tileiras) -> None:
    fake.remove()
    with pytest.raises(MissingError) as error:
        build()
    assert error.value.reason.kind is ReasonKind.MISSING_DEPENDENCY
    assert error.value.reason.text == (
        f"doubled for sm_90 is not in the kernel store {fake.store}, and cuda-tile's compiler,"
        " tileiras, is not installed"
    )
    assert error.value.reason.fix == (
        "install the compiler with: pip install 'tile-backend[kernels]', or where it is installed"
        " fill a store with: python -m tile_backend precompile TARGET --arch sm_90 --out FOLDER,"
        " and set TILEGYM_KERNEL_STORE=FOLDER here"
    )


FAILURES = {
    "exit 5": "tileiras 13.4.92 ended with status 5 compiling doubled for sm_90$",
    "echo 'error: no  such\nthing'; exit 1": "with status 1 .* sm_90: error: no such thing$",
    "kill -SEGV $$": r"ended with signal 11 \(SIGSEGV\) compiling doubled for sm_90",
    "exit 0": "ended with no cubin compiling",
    "echo text > $3": "ended with no cubin compiling",
    "echo out of memory >&2; exit 137": "status 137 .*: out of memory",
    HALF: "ended with half a cubin compiling",
    f"{HALF}; kill -SEGV $$": r"signal 11 \(SIGSEGV\) compiling",
    f"{WRITE}; exit 1": "ended with status 1 compiling",
    "mkdir $3": "ended with no cubin compiling",
    "mkfifo $3": "ended with no cubin compiling",
    r"printf '\033[31m\377\000 red'; exit 1": r"sm_90: \\x1b\[31m\ufffd\\x00 red$",
    "head -c 3000000 /dev/zero": "ended with no cubin compiling",
}


@pytest.mark.parametrize("body", FAILURES)
def test_a_compiler_that_fails_is_an_error_in_words(fake: Tileiras, body: str) -> None:
    fake.compiles_with(body)
    kernel = compiled.Kernel(doubled)
    code = kernel.code(signature_for(kernel, arguments()), "sm_90")
    for _ in range(2):  # the second time without asking the compiler again
        with pytest.raises(BuildError, match=FAILURES[body]) as error:
            kernel.build(code)
        assert error.value.reason.kind is ReasonKind.MISSING_KERNEL
    assert len(fake.compiles()) == 1
    assert not fake.store.exists(), "nothing is kept of a failure"


def test_a_compiler_that_prints_garbage_and_compiles_has_compiled(fake: Tileiras) -> None:
    fake.compiles_with(f"head -c 100000 /dev/urandom; {WRITE}")
    assert build().image == FAKE_CUBIN


@pytest.mark.parametrize("body", ("exec yes >&2", "exec cat /dev/zero", "exec yes > $3"))
def test_a_compiler_that_writes_without_end_is_stopped(
    fake: Tileiras, body: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would fill the disk long before its time is over."""
    monkeypatch.setattr(tileiras, "LARGEST_FILE", 1 << 20)
    fake.compiles_with(f"sleep 0.2; {body}")
    with pytest.raises(BuildError, match=r"signal 25 \(SIGXFSZ\) compiling doubled"):
        build()
    fake.script(f"sleep 0.2; {body.replace('$3', '/dev/stdout')}")
    with pytest.raises(MissingError, match=r"it ended with signal 25 \(SIGXFSZ\)"):
        build("sm_80")


@pytest.mark.parametrize("body", ("exit 5", "kill -SEGV $$", HALF, "echo garbage > $3"))
def test_a_process_with_a_better_compiler_is_not_held_up_by_what_another_left(
    fake: Tileiras, body: str
) -> None:
    fake.compiles_with(body)
    with pytest.raises(BuildError):
        build()
    fake.compiles_with(WRITE)
    assert build().image == FAKE_CUBIN
    (file,) = fake.store.iterdir()
    assert file.name.endswith(".cubin.xz")


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1][0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid: int) -> bool:
    """Whether a killed process has ended; init may take a moment to say so."""
    for _ in range(200):
        if not alive(pid):
            return True
        time.sleep(0.01)
    return False


def test_a_compiler_that_hangs_is_killed_with_what_it_started(
    fake: Tileiras, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_TILE_COMPILER_TIMEOUT_SEC", "0.5")
    pids = tmp_path / "pids"
    fake.compiles_with(f"sleep 600 & echo $! $$ > {pids}; wait")
    with pytest.raises(BuildError, match=r"stopped after 0.5 s .*\(allow it more with CUDA_TILE_C"):
        build()
    assert all(gone(int(pid)) for pid in pids.read_text().split())
    with pytest.raises(BuildError, match="stopped after"):
        build("sm_80")
    with pytest.raises(BuildError, match="hung at doubled and doubled; it is not started again"):
        build("sm_120")
    assert len(fake.compiles()) == 2


def test_a_compiler_that_does_not_say_its_version_is_none(
    fake: Tileiras, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.answers("hello")
    with pytest.raises(MissingError, match=r"tileiras does not run: asked .* ended with no cubin"):
        build()
    monkeypatch.setattr(tileiras, "VERSION_SECONDS", 0.3)
    fake.script("sleep 600")
    with pytest.raises(MissingError, match="asked for its version, it did not answer"):
        build()
    fake.command.write_bytes(b"\x7fELF no program")
    tileiras.found.cache_clear()
    with pytest.raises(MissingError, match="asked for its version, it ended with status 127"):
        build()


def test_an_interrupt_leaves_nothing_running(
    fake: Tileiras, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = tmp_path / "pid"
    fake.compiles_with(f"echo $$ > {pid}; sleep 600")
    original = tileiras.subprocess.Popen.wait

    def interrupted(process: Any, timeout: float | None = None) -> int:
        if timeout is None or timeout == tileiras.VERSION_SECONDS:
            return int(original(process, timeout))
        while not (pid.exists() and pid.read_text().strip()):
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(tileiras.subprocess.Popen, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        build()
    assert gone(int(pid.read_text()))


def test_no_room_for_temporary_files(fake: Tileiras, monkeypatch: pytest.MonkeyPatch) -> None:
    build("sm_80")  # the version is known

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tileiras.tempfile, "TemporaryDirectory", full)
    with pytest.raises(BuildError, match="doubled cannot be compiled for sm_90: .*No space left"):
        build()


def test_an_unsupported_construct_names_the_line(fake: Tileiras) -> None:
    with pytest.raises(BuildError) as error:
        build(function=unsupported)
    assert error.value.reason.kind is ReasonKind.MISSING_KERNEL
    assert "cuda-tile cannot compile unsupported for sm_90: " in error.value.reason.text
    assert "is not a power of two at " in error.value.reason.text
    line = unsupported.__code__.co_firstlineno + 2
    assert f"test_kernel_build.py:{line}:" in error.value.reason.text
    assert fake.compiles() == []


def test_another_toolkit_is_kept_away_from_the_packaged_compiler(
    fake: Tileiras, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_HOME", "/opt/cuda-12")
    build()
    assert "CUDA_HOME=" not in fake.environment()
    fake.kept_home(True)
    build("sm_80")
    assert "CUDA_HOME=/opt/cuda-12" in fake.environment()


@pytest.mark.slow
def test_the_real_compiler_makes_a_cubin(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through our runner the same image as through cuda-tile's own."""
    monkeypatch.setenv("TILEGYM_KERNEL_STORE", str(tmp_path))
    kernel = compiled.Kernel(doubled)
    code = kernel.code(signature_for(kernel, arguments()), "sm_90")
    ours = kernel.build(code)
    compiler = tileiras.found()
    assert isinstance(compiler, tileiras.Compiler)
    theirs = _compile.compile_tile(
        kernel._annotated_function, (code.signature,), "sm_90", kernel._compiler_options
    )
    assert ours.image == theirs.cubin
    assert compiler.bytecode == _compile._get_max_supported_bytecode_version(None).as_string()
    assert len(list(tmp_path.iterdir())) == 1
