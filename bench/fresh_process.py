"""Run a function of a bench in a process of its own, with caches of its own.

Inductor's, and in a checkout the store of compiled kernels; a kit has no compiler to fill another.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from typing import Any

from bench.result_file import KIT, ROOT
from tile_backend.lowering import cubin_store


def call(module: str, function: str, *arguments: Any, cache: str) -> Any:
    """`module.function(*arguments)`, in and out as JSON. cache: the folder of Inductor's caches."""
    environment = {
        **os.environ,
        "TORCHINDUCTOR_CACHE_DIR": cache,
        "TOKENIZERS_PARALLELISM": "false",
    }
    if not KIT.is_file():
        environment[cubin_store.FOLDER] = f"{cache}/kernels"
    command = [sys.executable, "-m", "bench.fresh_process", module, function]
    result = subprocess.run(
        [*command, json.dumps(arguments)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return json.loads(result.stdout.splitlines()[-1])


def main() -> None:
    """The child's side: the result is the last line of stdout."""
    module, function, arguments = sys.argv[1:]
    result = getattr(importlib.import_module(module), function)(*json.loads(arguments))
    print(json.dumps(result))


if __name__ == "__main__":
    main()
