"""Training as people do it: real text, many steps, the wrappers around a model."""

from __future__ import annotations
