"""The version of the distribution, alone in a file so that the build can read it without torch."""

from __future__ import annotations

VERSION = "0.1.0"
