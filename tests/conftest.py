"""What every test run needs: one thread per worker, a compile cache of its own, and the markers.

Inductor's caches lie in the checkout: a clean clone starts from nothing, and `make clean` forgets
them. They may live between runs because their keys cover our sources, which has tests of its own.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.fake_compiler import Tileiras
    from tests.stub_driver import Driver

# Before torch is imported, which reads it once: the workers already use every core.
os.environ.setdefault("OMP_NUM_THREADS", "1")
CACHE = Path(__file__).resolve().parents[1] / ".cache"
os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(CACHE / "inductor"))
os.environ.setdefault("TILEGYM_KERNEL_STORE", str(CACHE / "kernels"))
os.environ["TILEGYM_TUNING"] = str(CACHE / "nothing-measured")

GATHERED = 300_000
"""Objects that are worth setting aside: the collector takes a tenth of a second for them."""


def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Tests marked `stub` replace the CUDA driver for good: not in a process that has a GPU."""
    import torch

    if pyfuncitem.get_closest_marker("stub") is None or not torch.cuda.is_available():
        return None
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", pyfuncitem.nodeid],
        cwd=pyfuncitem.config.rootpath,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        check=True,
    )
    return True


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `gpu` are skipped where there is no CUDA device; nothing else is skipped.

    Before pytest reads `-m`: what is left out of tests marked `sampled` is marked `full`.
    """
    import torch

    from tests import sampling

    sampling.mark(items)
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """What is imported by now stays: the collector, which many tests call, need not visit it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def lasting() -> None:
    """Nor what has gathered in the caches of torch and of ours by the time a module begins."""
    if len(gc.get_objects()) > GATHERED:
        gc.collect()
        gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was left out for want of a browser, in a line that nobody misses."""
    from tests.browser import MISSING

    skipped = [r for r in terminalreporter.stats.get("skipped", ()) if MISSING in str(r.longrepr)]
    if skipped:
        text = f"tests of the dump's page that were not run: {len(skipped)} ({MISSING})"
        terminalreporter.write_line(text, yellow=True, bold=True)


@pytest.fixture
def graphs_only() -> Iterator[None]:
    """torch.compile with our backend does all but generate code; Dynamo starts and ends empty."""
    import torch

    from tile_backend.inductor import without_codegen

    torch.compiler.reset()
    with without_codegen():
        yield
    torch.compiler.reset()


@pytest.fixture
def tuning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A tuning store of the test's own, empty, and no launch planned before or after it."""
    from tile_backend.lowering import (
        kernel_launch,
        launch_configuration,
        launch_recipe,
        tuning_store,
    )

    monkeypatch.setenv(tuning_store.FOLDER, str(tmp_path / "tuning"))
    monkeypatch.setattr(launch_configuration, "_rejected", set())
    monkeypatch.setattr(kernel_launch, "_calls", {})
    tuning_store.warn.cache_clear()
    launch_recipe.recipe.cache_clear()
    yield tmp_path / "tuning"
    launch_recipe.recipe.cache_clear()


@pytest.fixture
def fresh_launcher(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The launcher as in a new process: nothing imported, nothing warned about, no call made."""
    from tile_backend.lowering import kernel_launch, launch_recipe

    caches = kernel_launch._launch, launch_recipe.recipe, kernel_launch.warn_once
    monkeypatch.setattr(kernel_launch, "_calls", {})
    for cache in caches:
        cache.cache_clear()
    yield
    for cache in caches:
        cache.cache_clear()


@pytest.fixture
def tileiras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tileiras]:
    """A compiler that compiles nothing, an empty store, and kernels that nobody launched before."""
    from tests import fake_compiler

    with fake_compiler.installed(tmp_path, monkeypatch) as fake:
        yield fake


@pytest.fixture
def driver(tileiras: Tileiras) -> Iterator[Driver]:
    """CPU tensors are taken for tensors of cuda:0; for tests marked `stub`."""
    import torch

    from tests import stub_driver

    installed = stub_driver.install()
    with stub_driver.gpu(installed), torch.no_grad():
        yield installed
