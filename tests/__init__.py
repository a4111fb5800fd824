"""Tests; import shared test code as `tests.<module>`."""

from __future__ import annotations
