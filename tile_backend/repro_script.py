"""The text of the `repro.py` of a dump entry: a script that runs the site's op alone."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

from tile_backend.lowering.site import TensorSpec

if TYPE_CHECKING:
    from tile_backend.lowering.site import OpCall
    from tile_backend.rewrite_entry import RewriteEntry

SCRIPT = '''"""torch.ops.tilegym.{op} alone: {title}

The site was {status}; its source line is {source}. Run this where tile-backend is installed: it
compares the op with the float64 oracle of its reference, within the project's budget, and times
both. A fusion of your own must be registered before: import the module that does.
"""

from __future__ import annotations

import torch

from tile_backend.repro import Case, tensor

torch.manual_seed(0)

CASE = Case(
    op="{op}",
    arguments={{
{arguments}
    }},
{interpreted})

if __name__ == "__main__":
    print(CASE.run())
'''


def script(entry: RewriteEntry, call: OpCall) -> str:
    """The script for the call that stands for the entry's first site."""
    site = entry.group.first
    return SCRIPT.format(
        title=entry.title.replace("\\", "/").replace('"', "'"),
        op=call.op,
        status=site.status,
        source=site.source or "unknown",
        interpreted="    interpreted=True,\n" if site.decision == "interpreted" else "",
        arguments="\n".join(
            f"        {literal(name)}: {literal(value)}," for name, value in call.arguments.items()
        ),
    )


def literal(value: object) -> str:
    """Python source for an argument: tensors are allocated at their example sizes."""
    if isinstance(value, TensorSpec):
        layout = (value.example_shape, value.example_stride, value.dtype, value.device)
        return f"tensor({', '.join(map(literal, layout))})"
    if isinstance(value, float) and not math.isfinite(value):
        return f"float({str(value)!r})"
    return json.dumps(value) if isinstance(value, str) else repr(value)
