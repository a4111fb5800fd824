"""torch.compile(model, backend="tilegym"): cuTile kernels for untouched PyTorch models.

Torch imports this module when TORCH_LOGS names it, near the end of `import torch`: everything is
loaded on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tile_backend.version import VERSION as __version__

if TYPE_CHECKING:
    from tile_backend.bisection import bisect
    from tile_backend.explanation import explain
    from tile_backend.lowering.fusion import Fusion, Op, Scalar, Shape, Spelling, Tensor
    from tile_backend.lowering.reason import Reason, ReasonKind
    from tile_backend.lowering.site import Site
    from tile_backend.registry import register
    from tile_backend.report import Report
    from tile_backend.scope import fusions
    from tile_backend.sessions import newest as last_report
    from tile_backend.tour import walkthrough

__all__ = [
    "Fusion",
    "Op",
    "Reason",
    "ReasonKind",
    "Report",
    "Scalar",
    "Shape",
    "Site",
    "Spelling",
    "Tensor",
    "__version__",
    "bisect",
    "explain",
    "fusions",
    "last_report",
    "register",
    "walkthrough",
]

_WHERE = {
    "Fusion": ("lowering.fusion", "Fusion"),
    "Op": ("lowering.fusion", "Op"),
    "Reason": ("lowering.reason", "Reason"),
    "ReasonKind": ("lowering.reason", "ReasonKind"),
    "Report": ("report", "Report"),
    "Scalar": ("lowering.fusion", "Scalar"),
    "Shape": ("lowering.fusion", "Shape"),
    "Site": ("lowering.site", "Site"),
    "Spelling": ("lowering.fusion", "Spelling"),
    "Tensor": ("lowering.fusion", "Tensor"),
    "bisect": ("bisection", "bisect"),
    "explain": ("explanation", "explain"),
    "fusions": ("scope", "fusions"),
    "last_report": ("sessions", "newest"),
    "register": ("registry", "register"),
    "walkthrough": ("tour", "walkthrough"),
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _WHERE[name]
    found = getattr(importlib.import_module(f"{__name__}.{module}"), attribute)
    globals()[name] = found
    return found
