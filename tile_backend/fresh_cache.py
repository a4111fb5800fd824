"""Empty caches of torch.compile for what is compiled inside: on disk and in this process.

Checked against torch 2.11, 2.13 and 2.15.
"""

from __future__ import annotations

import contextlib

from torch._inductor import utils


def fresh_cache(folder: str) -> contextlib.AbstractContextManager[None]:
    """The caches of inside lie in a new folder in this one, which is left there."""
    found: contextlib.AbstractContextManager[None] = utils.fresh_cache(dir=folder, delete=False)
    return found
