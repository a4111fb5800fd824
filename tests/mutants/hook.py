"""Imports one module from other source text; every other one as ever, and no file is changed."""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from types import CodeType, ModuleType

from tests.mutants.mutant import ROOT, Mutant


class Loader(importlib.machinery.SourceFileLoader):
    """Compiles the text that it was given, in the place of the file's."""

    def __init__(self, name: str, path: str, text: str) -> None:
        super().__init__(name, path)
        self.text = text

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.text, self.path, "exec", dont_inherit=True)


class Finder(importlib.abc.MetaPathFinder):
    """Knows that module alone."""

    def __init__(self, mutant: Mutant) -> None:
        self.mutant, self.text = mutant, mutant.mutated()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self.mutant.module:
            return None
        file = str(ROOT / self.mutant.file)
        loader = Loader(fullname, file, self.text)
        return importlib.util.spec_from_file_location(fullname, file, loader=loader)


def install(mutant: Mutant) -> None:
    """From here on the module is the changed one. Raises Stale, and what importing it raises."""
    assert mutant.module not in sys.modules, f"{mutant.module} is imported already"
    sys.meta_path.insert(0, Finder(mutant))
    importlib.import_module(mutant.module)
