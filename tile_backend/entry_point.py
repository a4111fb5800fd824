"""What torch loads by the name "tilegym"; the backend itself is loaded at the first graph.

Torch looks the name up, loads the entry point and registers what it got, without a lock
(torch._dynamo.backends.registry.lookup_backend): of two threads that compile first at the same time
the second fails ("duplicate name"). The longer loading takes, the surer; this takes no time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import fx


def tilegym(module: fx.GraphModule, inputs: Sequence[Any], **kwargs: Any) -> Callable[..., Any]:
    """See backend.tilegym."""
    from tile_backend.backend import tilegym as backend

    return backend(module, inputs, **kwargs)
