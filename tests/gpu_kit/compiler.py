"""The compiler behind cuda-tile as one file: tileiras with its ptxas and libnvvm, of one version.

On the other machine the folder stands for a CUDA toolkit, whose own ptxas would be too old.
"""

from __future__ import annotations

import importlib
import os
import tarfile
from collections.abc import Mapping
from pathlib import Path

FILES = ("bin/tileiras", "bin/ptxas", "lib/libnvvm.so.4")
STRONGEST = 9
ARCHIVE, FOLDER = "compiler.tar.xz", "compiler"


def pack(kit: Path) -> None:
    """Write the archive; takes minutes. Raises ImportError or OSError where a part is missing."""
    (root, *_) = (Path(path) for path in importlib.import_module("nvidia.cu13").__path__)
    with tarfile.open(kit / ARCHIVE, "w:xz", preset=STRONGEST) as tar:
        for name in FILES:
            tar.add(root / name, name)


def unpack(kit: Path) -> None:
    """Where `environment` expects it; nothing where the kit has none."""
    if (kit / ARCHIVE).is_file() and not (kit / FOLDER).exists():
        with tarfile.open(kit / ARCHIVE) as tar:
            tar.extractall(kit / FOLDER, filter="data")


def environment(kit: Path) -> Mapping[str, str]:
    """What lets cuda-tile find the unpacked compiler."""
    folder = kit / FOLDER
    if not folder.is_dir():
        return {}
    return {"CUDA_HOME": str(folder), "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"}
