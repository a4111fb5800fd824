"""The text of the `repro.py` of a dump entry: a script that runs the site alone.

A fused site gives its op, with a check against the op's reference. A near miss and a declined site
give their original ops as a function to edit; one that was declined with its op known, both.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from tile_backend.lowering.python_text import comment, docstring, quoted
from tile_backend.lowering.site import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tile_backend.lowering.site import OpCall, Site
    from tile_backend.lowering.snippet import Snippet
    from tile_backend.rewrite_entry import RewriteEntry

OP = '''"""torch.ops.tilegym.{op} alone: {title}

The site was {status}; its source line is {source}. Run this where tile-backend is installed: it
compares the op with the float64 oracle of its reference, within the project's budget, and times
both. A fusion of your own must be registered before: import the module that does.
"""

from __future__ import annotations

import torch

from tile_backend.repro import Case, tensor

torch.manual_seed(0)

{case}
if __name__ == "__main__":
    print(CASE.run())
'''
CASE = """CASE = Case(
    op="{op}",
    arguments={{
{arguments}
    }},
{interpreted})
"""
ORIGINAL = '''"""The original ops of a site that was not fused: {title}

{status} at {source}: {why}
Run this where tile-backend is installed. It says again what was found, and times the ops, eager and
compiled. Edit `original` until it is fused: the same edit in the model has the same effect.{op}
A fusion of your own must be registered before: import the module that does.
"""

from __future__ import annotations

{operator}import torch

{imports}
torch.manual_seed(0)


def original({parameters}):
{body}
    return {results}


ORIGINAL = Original(
    original,
    {{
{arguments}
    }},
)
{case}
if __name__ == "__main__":
    print(ORIGINAL.run())
{run_case}'''


def script(entry: RewriteEntry) -> str | None:
    """For the entry's first site; None where neither its op nor its ops are known."""
    site = entry.group.first
    title = docstring(entry.title)
    if site.status != "fused" and site.snippet is not None:
        return original(site, site.snippet, title)
    if site.call is None:
        return None
    source = docstring(site.source or "unknown")
    return OP.format(
        title=title, op=site.call.op, status=site.status, source=source, case=case(site, site.call)
    )


def case(site: Site, call: OpCall) -> str:
    """The op and its arguments."""
    return CASE.format(
        op=call.op,
        interpreted="    interpreted=True,\n" if site.decision == "interpreted" else "",
        arguments=assignments(call.arguments),
    )


def original(site: Site, snippet: Snippet, title: str) -> str:
    """The ops, and the op that they almost are, where it is known."""
    widest = max(len(text) for text, _ in snippet.statements)
    lines = [
        f"    {text.ljust(widest)}  # {comment(where)}".rstrip(" #")
        for text, where in snippet.statements
    ]
    imports = ["from tile_backend.original_ops import Original"]
    if site.call or any(isinstance(given, TensorSpec) for given in snippet.inputs.values()):
        names = "Case, tensor" if site.call else "tensor"
        imports.append(f"from tile_backend.repro import {names}")
    called = f" Then it checks and times torch.ops.tilegym.{site.call.op}." if site.call else ""
    return ORIGINAL.format(
        title=title,
        status=site.status,
        source=docstring(site.source or "an unknown line"),
        why=docstring(site.reason.text if site.reason else ""),
        op=called,
        operator="import operator\n\n" if any("operator." in text for text in lines) else "",
        imports="\n".join(imports) + "\n",
        parameters=", ".join(snippet.inputs),
        body="\n".join(lines),
        results=", ".join(snippet.results),
        arguments=assignments(snippet.inputs),
        case=f"\n{case(site, site.call)}" if site.call else "",
        run_case="    print(CASE.run())\n" if site.call else "",
    )


def assignments(arguments: Mapping[str, object]) -> str:
    """The items of a dict, one a line."""
    return "\n".join(
        f"        {literal(name)}: {literal(value)}," for name, value in arguments.items()
    )


def literal(value: object) -> str:
    """Python source for an argument: tensors are allocated at their example sizes."""
    if isinstance(value, TensorSpec):
        layout = (value.example_shape, value.example_stride, value.dtype, value.device)
        return f"tensor({', '.join(map(literal, layout))})"
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    return quoted(value) if isinstance(value, str) else repr(value)
