"""The table of canonical operations is whole, and nobody else has a list of their names."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from types import ModuleType

import pytest

from tests.lint.source_tree import Module, checkout
from tile_backend import registry
from tile_backend.lowering import (
    canonical_ops,
    identities,
    identities_arithmetic,
    identities_layout,
    realise,
    vocabulary_layout,
    vocabulary_loss,
    vocabulary_nn,
    vocabulary_pointwise,
)
from tile_backend.lowering.canonical_ops import OPERATIONS, having
from tile_backend.lowering.trace import interior, patterns

MAKERS = (
    *(identities, identities_arithmetic, identities_layout),
    *(vocabulary_layout, vocabulary_loss, vocabulary_nn, vocabulary_pointwise),
)
NAMES_THE_OP = {"build": 1, "intern": 0, "pointwise": 0, "reduced": 0, "unary": 0, "binary": 0}
"""By the name of what makes terms, the place of the operation's name among its arguments."""


def made_in(module: ModuleType) -> Iterator[str]:
    """The operations that a module makes terms of, by their names in its calls."""
    for node in ast.walk(ast.parse(inspect.getsource(module))):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else ast.unparse(node.func)
        place = NAMES_THE_OP.get(called, len(node.args))
        named = node.args[place : place + 1]
        yield from (n.value for n in named if isinstance(n, ast.Constant))  # type: ignore[misc]


@pytest.mark.parametrize("module", MAKERS, ids=lambda m: m.__name__.rpartition(".")[2])
def test_every_operation_that_is_made_is_in_the_table(module: ModuleType) -> None:
    found = set(made_in(module))
    assert found <= set(OPERATIONS), found - set(OPERATIONS)


def test_every_operation_of_a_spelling_is_in_the_table() -> None:
    found = {
        term.op
        for fusion in registry.known_fusions()
        for pattern in patterns(fusion)
        for term in interior(pattern.roots)
    }
    assert {"matmul", "softmax", "cat", "interleave", "cross_entropy"} <= found
    assert found <= set(OPERATIONS), found - set(OPERATIONS)


def test_what_can_be_realised_is_what_the_table_says() -> None:
    assert set(realise.WRITTEN) == having("realised")


def test_what_is_shareable_is_exact_or_a_cast() -> None:
    """Nothing that rounds twice or reduces may be computed twice without a word."""
    assert having("shareable") - having("exact") == {"cast"}
    assert not having("shareable") & having("reduces")


def lists_of_operations(module: Module) -> Iterator[str]:
    """Comparisons of `.op` with several names, and constants that are nothing but such names."""
    for node in ast.walk(module.tree):
        looked_at: list[ast.expr] = []
        if isinstance(node, ast.Compare) and ast.unparse(node.left).endswith(".op"):
            looked_at = node.comparators
        elif isinstance(node, (ast.Assign, ast.AnnAssign)) and node.value is not None:
            looked_at = [node.value]
        for found in looked_at:
            if isinstance(found, ast.Call) and found.args:  # frozenset((...))
                (found, *_) = found.args
            if isinstance(found, (ast.Tuple, ast.Set, ast.List)):
                names = [n.value for n in found.elts if isinstance(n, ast.Constant)]
                if len(names) == len(found.elts) > 1 and set(names) <= OPERATIONS.keys():
                    yield f"{module.path}:{found.lineno} {ast.unparse(found)}"


EQUATIONS = ("lowering/identities", "lowering/vocabulary")
"""An equation names the operations that it is about."""


def test_nobody_else_has_a_list_of_operations() -> None:
    own = inspect.getsourcefile(canonical_ops)
    assert own is not None
    modules = [m for m in checkout().shipped() if not m.path.startswith(EQUATIONS)]
    others = [m for m in modules if not m.path.endswith("canonical_ops.py")]
    assert len(others) == len(modules) - 1
    assert [found for module in others for found in lists_of_operations(module)] == []


def test_such_a_list_is_found() -> None:
    text = 'CHEAP = frozenset(("cast", "slice"))\n\ndef f(t):\n    return t.op in ("add", "mul")\n'
    assert len(list(lists_of_operations(Module("lowering/new.py", text)))) == 2
