"""Who may import what: the direction between the packages, and the private parts of torch.

`patterns` sees only the declaration types of `lowering`; `lowering` sees only itself; `cuda.tile`
stays where kernels are; each private module of torch is behind the files listed here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.lint.source_tree import Finding, Module, SourceTree

DECLARATIONS = (
    "tile_backend.lowering.fusion",
    "tile_backend.lowering.reason",
)
"""The modules of `lowering` that a pattern may import: the types it is written in."""

CUDA_TILE = ("lowering/kernels/", "lowering/interpreter/", "tests/")
"""Where `import cuda.tile` may stand at module level."""

PRIVATE_TORCH = ("torch._dynamo", "torch._inductor", "torch._functorch", "torch._guards")
PRIVATE_TORCH_ALLOWED = {
    "tile_backend/inductor.py": "the hand-over to Inductor: config patches, caches, tracing",
    "tile_backend/compile_state.py": "what an abandoned compile leaves in the tracing context",
    "tile_backend/one_graph.py": "a switch of Inductor's cache, for a graph that is compiled again",
    "tile_backend/inductor_alone.py": "a switch of AOTAutograd, for compiles inside a compile",
    "tile_backend/generated_code.py": "the code that Inductor generates, cached or not",
    "tile_backend/pattern_cache.py": "the folder of Inductor's caches",
    "tile_backend/debug_folder.py": "the folder of TORCH_COMPILE_DEBUG",
    "tile_backend/inductor_stages.py": "what Inductor makes of a graph, for people to look at",
    "tile_backend/dynamo_counts.py": "torch's own counters of graphs and graph breaks",
    "tile_backend/fresh_cache.py": "empty caches of torch.compile, on disk and in memory",
    "tile_backend/compiler_bisector.py": "torch's own bisector, which has no public interface",
    "lowering/failure.py": "the exceptions that torch means for Dynamo or the user",
    "lowering/inductor_ir.py": "the lowering of our ops: Inductor's IR classes",
    "lowering/mask/batching.py": "the calls by which torch.vmap shows in a graph",
    "lowering/meta.py": "leaving the fake mode that a backend is called in",
    "lowering/real_tensors.py": "leaving the tracing that a backend is called in",
    "lowering/legality.py": "the fake mode under which Dynamo made a graph's example values",
}
"""The files that touch private modules of torch, and for what."""


def imported(node: ast.AST) -> tuple[str, ...]:
    """The dotted names that an import statement names; nothing for any other node."""
    if isinstance(node, ast.Import):
        return tuple(alias.name for alias in node.names)
    if isinstance(node, ast.ImportFrom) and node.module and not node.level:
        return tuple(f"{node.module}.{alias.name}" for alias in node.names)
    return ()


def inside(name: str, package: str) -> bool:
    """Whether a dotted name is the package or something in it."""
    return name == package or name.startswith(package + ".")


def _imports(module: Module, nodes: Iterator[ast.AST]) -> Iterator[tuple[ast.AST, str]]:
    for node in nodes:
        for name in imported(node):
            yield node, name


def direction(tree: SourceTree) -> Iterator[Finding]:
    """`lowering` imports only itself, `patterns` only the declaration types and each other."""
    for module in tree.shipped():
        for node, name in _imports(module, ast.walk(module.tree)):
            if module.folder == "patterns":
                ours = inside(name, "tile_backend") and not inside(name, "tile_backend.patterns")
                if ours and not any(inside(name, allowed) for allowed in DECLARATIONS):
                    yield module.finding(
                        node,
                        f"a pattern imports {name}: it may only use torch, its siblings and "
                        f"{', '.join(DECLARATIONS)}",
                    )
            elif module.path.startswith("lowering/") and (
                inside(name, "tile_backend") and not inside(name, "tile_backend.lowering")
            ):
                yield module.finding(
                    node, f"lowering imports {name}: take what it needs as an argument instead"
                )


def cuda_tile(tree: SourceTree) -> Iterator[Finding]:
    """Only kernels import `cuda.tile`: everything else works where it is not installed."""
    for module in tree.python:
        if module.path.startswith(CUDA_TILE):
            continue
        for node, name in _imports(module, ast.walk(module.tree)):
            if inside(name, "cuda"):
                yield module.finding(
                    node, f"imports {name}: only {', '.join(CUDA_TILE)} may need cuda-tile"
                )


def private_torch(tree: SourceTree) -> Iterator[Finding]:
    """Private modules of torch stand behind one name in one file, imported or as an attribute."""
    for module in tree.shipped():
        if module.path in PRIVATE_TORCH_ALLOWED:
            continue
        for node in ast.walk(module.tree):
            names = imported(node)
            if isinstance(node, ast.Attribute):
                names = (ast.unparse(node),)
            for name in names:
                if name in PRIVATE_TORCH or (
                    imported(node) and any(inside(name, private) for private in PRIVATE_TORCH)
                ):
                    yield module.finding(
                        node,
                        f"uses {name}: private parts of torch stand behind one name in one of "
                        f"{', '.join(PRIVATE_TORCH_ALLOWED)}",
                    )


def relative(tree: SourceTree) -> Iterator[Finding]:
    """Modules of patterns/ and lowering/ are imported by their installed names."""
    for module in tree.python:
        for node, name in _imports(module, ast.walk(module.tree)):
            if inside(name, "patterns") or inside(name, "lowering"):
                yield module.finding(node, f"imports {name}: its name is tile_backend.{name}")
