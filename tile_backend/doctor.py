"""`python -m tile_backend doctor`: what is installed, what can run here, and what to install.

`examine` collects the facts, which a test can make up; `Diagnosis` judges them. Works without
cuda-tile, without Transformers and without a GPU.
"""

from __future__ import annotations

import collections
import dataclasses
import platform
from typing import TYPE_CHECKING, Any

from tile_backend import machine, supported
from tile_backend.report_text import aligned
from tile_backend.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

KERNELS = "pip install 'tile-backend[kernels]'"
OLDEST_CAPABILITY = (8, 0)
"""Of a GPU that the kernels run on: Ampere."""


@dataclasses.dataclass(frozen=True)
class Ability:
    """One thing that the package does. missing: why not here, "" if it can. fix: what to do.

    but: what it cannot do of it.
    """

    what: str
    missing: str = ""
    fix: str = ""
    but: str = ""

    def row(self) -> tuple[str, ...]:
        """As shown: yes or no, and why not."""
        if not self.missing:
            return self.what, f"yes, {self.but}" if self.but else "yes"
        return self.what, f"no: {self.missing}" + (f"; {self.fix}" if self.fix else "")


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The facts; "" where something is not there."""

    python: str
    torch: str
    torch_cuda: str
    transformers: str
    cuda_tile: str
    tileiras: str
    driver: str
    gpus: tuple[machine.Gpu, ...]
    compiler: str
    store: str = ""
    stored: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Kernels in the store by architecture."""
    tuning: str = ""
    tuned: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    """Measurements by architecture, and how many of them are of other code."""

    def abilities(self) -> list[Ability]:
        """What can run here."""
        return [self.explain(), self.compile(), self.build_kernels(), self.run_kernels()]

    @property
    def healthy(self) -> bool:
        """True if models can be explained and compiled, with or without kernels."""
        return not (self.explain().missing or self.compile().missing)

    def explain(self) -> Ability:
        """Matching needs torch, and nothing else."""
        what = "match and explain"
        if not supported.within(supported.major_minor(self.python), supported.PYTHON):
            oldest, newest = map(supported.text, supported.PYTHON)
            return Ability(what, f"Python {self.python}", f"use Python {oldest} to {newest}")
        if not supported.within(supported.major_minor(self.torch), supported.TORCH):
            oldest, newest = map(supported.text, supported.TORCH)
            found = f"torch {self.torch}" if self.torch else "torch is not installed"
            return Ability(what, found, f"install torch {oldest} to {newest}")
        return Ability(what)

    def compile(self) -> Ability:
        """Inductor needs a C++ compiler for a CPU."""
        what = "compile models"
        if not self.explain().missing and not self.compiler:
            return Ability(what, "no C++ compiler was found", "install g++, or name one with CXX=")
        return dataclasses.replace(self.explain(), what=what)

    def build_kernels(self) -> Ability:
        """The kernel compiler needs both halves, and no GPU."""
        what = "build kernels"
        if not self.cuda_tile:
            return Ability(what, "cuda-tile is not installed", KERNELS)
        if not self.tileiras:
            return Ability(what, "cuda-tile is there, but its compiler tileiras is not", KERNELS)
        if self.tileiras == "unknown":
            return Ability(what, "tileiras does not run", f"{KERNELS} --force-reinstall")
        return Ability(what)

    def run_kernels(self) -> Ability:
        """Kernels need all of it."""
        what = "run kernels"
        if not self.torch_cuda:
            return Ability(what, "this torch is a CPU build", "install a CUDA build of torch")
        if not self.driver:
            return Ability(what, "no NVIDIA driver was found", "install the NVIDIA driver")
        if not self.gpus:
            return Ability(what, "torch sees no GPU", "check nvidia-smi and CUDA_VISIBLE_DEVICES")
        if all(gpu.capability < OLDEST_CAPABILITY for gpu in self.gpus):
            archs = ", ".join(sorted({gpu.arch for gpu in self.gpus}))
            return Ability(what, f"the kernels need sm_80 or newer, and this is {archs}")
        if self.cuda_tile and self.build_kernels().missing and self.ready:
            return Ability(what, but=f"only the {self.ready} that are in the store")
        return dataclasses.replace(self.build_kernels(), what=what)

    @property
    def ready(self) -> int:
        """Stored kernels that a GPU of this machine can run."""
        return sum(self.stored.get(arch, 0) for arch in {gpu.arch for gpu in self.gpus})

    def facts(self) -> Iterator[tuple[str, str]]:
        """Every fact as a row."""
        oldest, newest = map(supported.text, supported.TRANSFORMERS)
        tested = supported.within(supported.major_minor(self.transformers), supported.TRANSFORMERS)
        untested = "" if tested or not self.transformers else f" (tested: {oldest} to {newest})"
        build = f"CUDA {self.torch_cuda} build" if self.torch_cuda else "CPU build"
        yield "tile-backend", VERSION
        yield "Python", self.python
        yield "torch", f"{self.torch} ({build})" if self.torch else "not installed"
        yield "transformers", (self.transformers or "not installed") + untested
        yield "cuda-tile", self.cuda_tile or "not installed"
        yield "tileiras", self.tileiras or "not found"
        yield "driver", self.driver or "not found"
        yield "C++ compiler", self.compiler or "not found"
        if self.store:
            counts = ", ".join(f"{n} for {arch}" for arch, n in sorted(self.stored.items()))
            yield "kernel store", f"{self.store} ({counts or 'empty'})"
        if self.tuning:
            counts = ", ".join(
                f"{count} for {arch}" + (f", {stale} of them of other code" if stale else "")
                for arch, (count, stale) in sorted(self.tuned.items())
            )
            yield "tuning store", f"{self.tuning} ({counts or 'empty'})"
        for gpu in self.gpus:
            yield "GPU", f"{gpu.name} ({gpu.arch})"
        if not self.gpus:
            yield "GPU", "none"

    def to_text(self) -> str:
        """Facts, then abilities, without a trailing newline."""
        facts = [(name, value, "") for name, value in self.facts()]
        abilities = [(*ability.row(), "") for ability in self.abilities()]
        return "\n".join(line.rstrip() for line in [*aligned(facts), "", *aligned(abilities)])


def examine() -> Diagnosis:
    """The facts of this machine."""
    torch_version = machine.package_version("torch")
    return Diagnosis(
        python=platform.python_version(),
        torch=torch_version,
        torch_cuda=torch_cuda() if torch_version else "",
        transformers=machine.package_version("transformers"),
        cuda_tile=machine.package_version("cuda-tile"),
        tileiras=machine.tileiras_version(),
        driver=machine.driver_version(),
        gpus=tuple(machine.gpus()) if torch_version else (),
        compiler=machine.cxx_compiler(),
        **kernel_store(),
        **tuning(),
    )


def kernel_store() -> dict[str, Any]:
    """Where compiled kernels are kept, and how many."""
    from tile_backend.lowering import cubin_store

    store = cubin_store.default()
    names = (path.name.split("-") for _, _, path in store.files())
    counts = collections.Counter(name[1] for name in names if len(name) > 2)
    return {"store": str(store.folder), "stored": dict(counts)}


def tuning() -> dict[str, Any]:
    """Where measurements are kept, and how many count."""
    from tile_backend.lowering import tuning_store

    folder = tuning_store.folder()
    return {"tuning": str(folder or ""), "tuned": tuning_store.counts()}


def torch_cuda() -> str:
    """The CUDA version that torch was built for."""
    import torch

    return torch.version.cuda or ""
