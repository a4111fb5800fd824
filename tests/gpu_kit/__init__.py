"""What proves the kernels on a GPU: `make gpu-kit` packs it, `make gpu-check` there runs it.

`calls` names every call of an op that the check makes, `needed` the compiled kernels they need,
`pack` collects those and all else into a folder, `install` makes a Python environment of it without
a network, and `check` runs the steps of `steps`, each in a process of its own, into one JSON file.
"""

from __future__ import annotations
