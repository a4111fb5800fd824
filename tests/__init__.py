"""Tests; import shared test code as `tests.<module>`. Nothing is loaded from a model hub."""

from __future__ import annotations

import os

# Before transformers is imported, which reads it once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
