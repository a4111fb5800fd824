"""The models that the backend is shown on: Transformers' own classes, and plain PyTorch."""

from __future__ import annotations
