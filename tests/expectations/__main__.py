"""Writes the expectation files: `python -m tests.expectations [NAME ...]`, all models by default.

Dynamo's graphs are only matched, which is quick; the tests hold the files against whole compiles.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch

from tests import expectations
from tests.coverage.compare import site_counts
from tests.coverage.rewriting import Rewriting
from tests.models import named, plain, plain_run, scenario
from tests.models.inputs import INPUTS
from tests.models.run import apply


@torch.no_grad()
def found(compile_with: Callable[[Any], Callable[[], Any]]) -> expectations.Expected:
    """compile_with: takes a backend, returns a call of the compiled model."""
    torch._dynamo.reset()
    rewriting = Rewriting()
    compile_with(rewriting)()
    return {"graphs": len(rewriting.graphs), "sites": site_counts(rewriting.sites)}


def of_named(name: str, each: scenario.Scenario) -> expectations.Expected:
    model = named.build(name, each.torch_dtype)
    arguments = INPUTS[each.call](model)

    def compiled(backend: Any) -> Callable[[], Any]:
        run = apply(backend, model, each.scope, dynamic=each.dynamic)
        return lambda: run(**arguments)

    return found(compiled)


def of_plain(name: str, each: plain_run.PlainScenario) -> expectations.Expected:
    model, inputs = plain.build(name, each.torch_dtype)

    def compiled(backend: Any) -> Callable[[], Any]:
        run = torch.compile(model, backend=backend, dynamic=each.dynamic)
        return lambda: run(*inputs)

    return found(compiled)


def main() -> None:
    """Write a file for each name."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name in sys.argv[1:] or [*named.CONFIGURATIONS, *plain.NAMES]:
        if name in named.CONFIGURATIONS:
            expected = {each.name: of_named(name, each) for each in scenario.ALL}
        else:
            expected = {each.name: of_plain(name, each) for each in plain_run.SCENARIOS}
        expectations.save(name, expected)


if __name__ == "__main__":
    main()
