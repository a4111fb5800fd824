"""Measurements, one module each: `python -m bench.compile_time`. Results go to `bench/results/`."""

from __future__ import annotations
