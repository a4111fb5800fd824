"""docs/kernels.md of what is compiled here: the same text on every machine with these tools."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import cuda.tile as ct

from tests import kernel_compile
from tests.kernel_compile import OPS, ROOT, Case
from tests.kernel_report import cubin, table
from tests.kernel_report.facts import Facts, facts_of
from tile_backend.lowering.kernels import tileiras
from tile_backend.lowering.kernels.build_error import MissingError

PAGE = ROOT / "docs" / "kernels.md"


def measured(
    op: str | None = None, wanted: Callable[[], Iterable[Case]] = kernel_compile.cases
) -> Mapping[Case, Facts]:
    """Every sample of every kernel, or of one, in the order of the page. wanted: the cases."""
    facts = facts_of(case for case in wanted() if op in (None, case.op))
    return dict(sorted(facts.items(), key=lambda item: OPS.index(item[0].op)))


def page(facts: Mapping[Case, Facts]) -> str:
    """The text for these facts and the installed tools."""
    compiler = tileiras.found()
    assert not isinstance(compiler, MissingError), str(compiler)
    versions = {
        "cuda-tile": ct.__version__,
        "tileiras": compiler.version,
        "cuobjdump": cubin.version("cuobjdump"),
        "nvdisasm": cubin.version("nvdisasm"),
    }
    return table.markdown(facts, versions)
