"""Importing the package is light, and needs neither cuda-tile nor a GPU.

torch imports `tile_backend` itself near the end of `import torch`, when TORCH_LOGS names it.
"""

from __future__ import annotations

import os
import subprocess
import sys

HEAVY = ("torch._dynamo", "torch._inductor", "transformers", "cuda", "rich", "sympy")

BLOCKED = """
import importlib.abc, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "cuda" or name.startswith("cuda."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
"""


def python(code: str, **environ: str) -> str:
    """What a fresh interpreter prints; it must succeed."""
    command = [sys.executable, "-c", code]
    environment = {**os.environ, **environ}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_the_import_adds_nothing_heavy_to_torch() -> None:
    """Nor any op, nor the modules of a walk-through."""
    code = (
        "import sys, torch; before = set(sys.modules); import tile_backend; "
        f"print(sorted(set({HEAVY}) & (set(sys.modules) - before))); "
        "print([s.name for s in torch._C._jit_get_all_schemas() if s.name.startswith('tilegym')]); "
        "print([m for m in sys.modules if m.startswith('tile_backend.tour')])"
    )
    assert python(code) == "[]\n[]\n[]\n"


def test_torch_logs_can_name_the_package() -> None:
    assert python("import torch; print('ok')", TORCH_LOGS="+tile_backend") == "ok\n"


def test_every_module_but_the_kernels_imports_without_cuda_tile() -> None:
    code = f"""{BLOCKED}
import importlib, pkgutil, tile_backend, tile_backend.lowering, tile_backend.patterns
count = 0
for package in (tile_backend, tile_backend.lowering, tile_backend.patterns):
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        if not module.ispkg and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
            count += 1
print(count)
"""
    assert int(python(code)) > 20


def test_explain_works_without_cuda_tile() -> None:
    code = f"""{BLOCKED}
import torch, tile_backend
print(dict(tile_backend.explain(torch.nn.RMSNorm(8), torch.randn(2, 8)).counts))
"""
    assert python(code) == "{'rms_norm': 1}\n"


def test_torch_loads_the_backend_by_name_at_the_first_graph() -> None:
    """Torch registers what it loads without a lock: nothing slow may happen in between."""
    code = (
        "import importlib.metadata as metadata, sys, torch\n"
        "points = metadata.entry_points(group='torch_dynamo_backends', name='tilegym')\n"
        "backend = next(iter(points)).load()\n"
        "assert 'tile_backend.backend' not in sys.modules\n"
        "assert not [name for name in sys.modules if name.startswith('tile_backend.lowering')]\n"
        "print(torch.compile(lambda x: x + 1, backend='tilegym')(torch.ones(2)).tolist())\n"
    )
    said = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout.splitlines()[-1] == "[2.0, 2.0]"
