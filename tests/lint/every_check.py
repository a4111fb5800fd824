"""The list of habit checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.lint import calls, imports, loading, portable, sizes
from tests.lint.source_tree import Finding, SourceTree

Check = Callable[[SourceTree], Iterator[Finding]]

ALL_CHECKS: tuple[Check, ...] = (
    sizes.file_lines,
    sizes.median_file,
    sizes.function_lines,
    imports.direction,
    imports.cuda_tile,
    imports.private_torch,
    imports.relative,
    calls.prints,
    calls.bare_except,
    calls.empty_names,
    calls.cuda_literals,
    loading.loaded_code,
    loading.whole_files,
    portable.machine_paths,
    portable.index_hosts,
)
