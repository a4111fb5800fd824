"""What we do to a joint graph, forward and backward in one, before torch partitions it.

Goes into Inductor's `joint_custom_post_pass`.
"""

from __future__ import annotations

import hashlib
import pathlib
from typing import Any

from torch import fx

from tile_backend.lowering import failure, recompute, separate_results
from tile_backend.lowering.inductor_ir import CustomGraphPass

SOURCES = (__file__, recompute.__file__, separate_results.__file__)
_DIGEST = hashlib.sha256()
for _source in SOURCES:  # once: files may change
    _DIGEST.update(pathlib.Path(_source).read_bytes())


class JointGraphPass(CustomGraphPass):
    """Marks what is cheap to run again, and keeps results apart.

    identity: what else the compiled code depends on (the sources and options of the whole backend).
    """

    def __init__(self, identity: str = "") -> None:
        self.identity = (type(self).__name__, _DIGEST.hexdigest(), identity)

    def __call__(self, graph: fx.Graph) -> None:
        recompute.mark(graph)
        what = "keeping equal results apart"
        failure.instead(None, what, None, separate_results.keep_apart, graph)

    def uuid(self) -> Any:
        return self.identity
