"""Stage 7: the graph with the op put in, as a difference; the graph is changed for good.

On a machine without a GPU the op is put in all the same (tilegym.kernels="always"), since without
it there would be nothing to see from here on.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from torch import fx

from tile_backend import registry
from tile_backend.lowering import inductor_ir, node
from tile_backend.lowering.analysis import Analysis
from tile_backend.tour_stage import Artefact, Stage, sentences
from tile_backend.tour_subject import Subject

CONTEXT = 2


def rewrite(subject: Subject, found: Analysis, forced: bool) -> Stage:
    """Applies what `found` has put in. forced: the gate would have left these operations alone."""
    gone = {each.name for each in subject.nodes}
    before = lines(subject.graph.graph)
    inductor_ir.install(registry.known_fusions())
    if found.apply().ops < found.ops:
        raise RuntimeError("the op could not be put in; explain() says why")
    after = lines(subject.graph.graph)
    says = sentences(
        "The op goes in, and the operations that it makes useless go out; everything else stays as"
        " it was. The new line carries the fake result, the source line and the module path of what"
        " it replaces, so that errors, profilers and the stages below still point at the model.",
        "If anything failed here, the graph would go on as it came.",
        "The gate leaves these operations to Inductor on this machine. This tour puts the op in all"
        ' the same, as tilegym.kernels="always" does.'
        if forced
        else "",
    )
    site = subject.site
    artefacts = [Artefact("before and after", difference(before, after, gone), "diff", None)]
    if site is not None and site.after:
        artefacts.append(Artefact("with the names of the op's arguments", "\n".join(site.after)))
    return Stage("rewrite", "The rewritten graph", says, tuple(artefacts))


def lines(graph: fx.Graph) -> list[str]:
    """The calls of a graph, each as a person reads it."""
    called = ("call_function", "call_method")
    return [node.text(each) for each in graph.nodes if each.op in called or each.op == "output"]


def difference(before: Sequence[str], after: Sequence[str], gone: set[str]) -> str:
    """The hunks of a diff in which one of the operations goes; all of them if none does."""
    hunks: list[list[str]] = []
    for line in list(difflib.unified_diff(before, after, n=CONTEXT, lineterm=""))[2:]:
        if line.startswith("@@"):
            hunks.append([])
        else:
            hunks[-1].append(line)

    def ours(hunk: list[str]) -> bool:
        return any(line[:1] == "-" and line[1:].split(" = ")[0] in gone for line in hunk)

    wanted = [hunk for hunk in hunks if ours(hunk)] or hunks
    return "\n...\n".join("\n".join(hunk) for hunk in wanted)
