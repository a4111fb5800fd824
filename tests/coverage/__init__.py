"""`python -m tests.coverage`: the calls of eager runs held against the fused sites."""

from __future__ import annotations
