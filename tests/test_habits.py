"""The habits of this code hold for every file, and each check finds what it is there to find."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests.lint import calls, imports, loading, portable, sizes, types
from tests.lint.every_check import ALL_CHECKS, Check
from tests.lint.source_tree import ROOT, SourceTree, checkout

LONG_FUNCTION = "def long():\n" + "    work()\n" * (sizes.FUNCTION_LINES + 1)
LONG_DOCSTRING = '    """Work.\n\n' + "    words\n" * 50 + '    """\n'

BROKEN = (
    (sizes.file_lines, "patterns/long.py", "x = 1\n" * 301, "split the file by idea"),
    (sizes.median_file, "patterns/long.py", "x = 1\n" * 151, "median file has 151 lines"),
    (sizes.function_lines, "bench/b.py", LONG_FUNCTION, "long has 41 lines"),
    (
        imports.direction,
        "patterns/new.py",
        "from tile_backend.lowering.match import unify",
        "a pattern imports tile_backend.lowering.match.unify",
    ),
    (
        imports.direction,
        "patterns/new.py",
        "from tile_backend import options",
        "a pattern imports tile_backend.options",
    ),
    (
        imports.direction,
        "lowering/plan.py",
        "def f():\n    from tile_backend.patterns import all_fusions",
        "take what it needs as an argument",
    ),
    (imports.cuda_tile, "lowering/gate.py", "import cuda.tile as ct", "may need cuda-tile"),
    (
        imports.private_torch,
        "lowering/gate.py",
        "from torch._inductor import ir",
        "uses torch._inductor.ir",
    ),
    (
        imports.private_torch,
        "lowering/gate.py",
        "import torch\ntorch._dynamo.reset()",
        "uses torch._dynamo",
    ),
    (imports.relative, "tests/test_x.py", "from patterns.softmax import FUSION", "its name is"),
    (calls.prints, "lowering/gate.py", "print(1)", "log it on the tile_backend logger"),
    (calls.bare_except, "bench/b.py", "try:\n    f()\nexcept:\n    raise", "name the errors"),
    (
        calls.bare_except,
        "bench/b.py",
        "try:\n    f()\nexcept Exception:\n    pass",
        "swallows Exception",
    ),
    (calls.empty_names, "lowering/shape_utils.py", "", "a module called utils has no idea"),
    (
        calls.cuda_literals,
        "tests/test_x.py",
        'def test_a():\n    x = zeros(1, device="cuda")',
        "outside a test marked",
    ),
    (
        calls.cuda_literals,
        "tests/test_x.py",
        'def test_a(fake):\n    x = zeros(1, device="cuda")',
        "outside a test marked",
    ),
    (calls.cuda_literals, "tests/test_x.py", 'X.to("cuda:0")', "outside a test marked"),
    (calls.cuda_literals, "tests/test_x.py", "X.cuda()", "outside a test marked"),
    (loading.loaded_code, "lowering/gate.py", "import pickle", "what it reads can run code"),
    (loading.loaded_code, "lowering/gate.py", "from marshal import loads", "imports marshal.loads"),
    (loading.loaded_code, "tile_backend/a.py", "torch.load(f)", "without weights_only=True"),
    (loading.loaded_code, "tile_backend/a.py", "torch.load(f, weights_only=w)", "without weights"),
    (loading.loaded_code, "patterns/a.py", "sympy.sympify('D // 2')", "without strict=True"),
    (loading.loaded_code, "patterns/a.py", "x = eval(text)", "calls eval"),
    (loading.loaded_code, "lowering/gate.py", "np.load(f, allow_pickle=True)", "allow_pickle=True"),
    (
        loading.loaded_code,
        "tile_backend/a.py",
        "AutoConfig.from_pretrained(folder)",
        "without trust_remote_code=False",
    ),
    (loading.whole_files, "lowering/gate.py", "path.write_text(x)", "whole or not"),
    (loading.whole_files, "tile_backend/a.py", "open(path, 'wb')", "calls open"),
    (loading.whole_files, "tile_backend/a.py", "path.open(mode='a')", "calls path.open"),
    (portable.machine_paths, "README.md", "cd /home/me/tile-backend", "/home/me is a path of one"),
    (portable.index_hosts, "README.md", "see pypi.org/project", "leave the choice to pip's"),
    (portable.index_hosts, "Makefile", "pip install --index-url x", "leave the choice to pip's"),
)

ALLOWED = (
    (sizes.file_lines, "tests/data.py", '"""Longer than 300 lines because data."""\n' * 301),
    (sizes.function_lines, "bench/b.py", f"def f():\n{LONG_DOCSTRING}    return 1\n"),
    (
        imports.direction,
        "patterns/new.py",
        "from tile_backend.lowering.fusion import Op\nfrom tile_backend.patterns import softmax",
    ),
    (imports.cuda_tile, "lowering/kernels/softmax.py", "import cuda.tile as ct"),
    (imports.private_torch, "tile_backend/inductor.py", "import torch._inductor.config"),
    (calls.prints, "tile_backend/cli.py", "print(1)"),
    (calls.cuda_literals, "tests/test_x.py", '@pytest.mark.gpu\ndef test_a():\n    x.to("cuda")'),
    (calls.cuda_literals, "tests/test_x.py", 'pytestmark = pytest.mark.gpu\nx.to("cuda")'),
    (calls.cuda_literals, "tests/test_x.py", 'def test_a(fake_gpu):\n    x.to("cuda")'),
    (calls.cuda_literals, "tests/test_x.py", 'GPU = torch.device("cuda", 0)'),
    (loading.loaded_code, "tile_backend/a.py", "torch.load(f, weights_only=True)"),
    (loading.loaded_code, "tests/test_x.py", "import pickle"),
    (loading.whole_files, "tile_backend/a.py", "path.open('rb')\nopen('wax')"),
    (
        loading.whole_files,
        "tile_backend/a.py",
        "atomic_files.write_text(p, x)\nwrite_text(p)",
    ),
    (portable.machine_paths, "README.md", "docs/home/index.md and https://a.example/tmp/x"),
)


@pytest.fixture(scope="module")
def tree() -> SourceTree:
    return checkout()


@pytest.mark.parametrize("check", ALL_CHECKS, ids=lambda check: check.__name__)
def test_the_tree_keeps_the_habit(check: Check, tree: SourceTree) -> None:
    assert [str(finding) for finding in check(tree)] == []


@pytest.mark.parametrize(("check", "path", "source", "words"), BROKEN)
def test_a_broken_habit_is_found(check: Check, path: str, source: str, words: str) -> None:
    (finding,) = check(SourceTree({path: source}))
    assert words in finding.text
    assert path in finding.path or check is sizes.median_file


@pytest.mark.parametrize(("check", "path", "source"), ALLOWED)
def test_what_is_allowed_is_not_found(check: Check, path: str, source: str) -> None:
    assert list(check(SourceTree({path: source}))) == []


def test_every_check_is_shown_to_bite() -> None:
    assert {check for check, *_ in BROKEN} == set(ALL_CHECKS)


def test_the_tree_that_is_checked_is_this_one(tree: SourceTree) -> None:
    names = {module.name for module in tree.python}
    assert {__name__, "tile_backend.version", "tile_backend.patterns.softmax"} <= names


def test_a_file_that_may_use_private_torch_exists() -> None:
    paths = [path for path in imports.PRIVATE_TORCH_ALLOWED if not (ROOT / path).is_file()]
    assert paths == []


@pytest.mark.parametrize("arguments", (("check",), ("format", "--check")), ids=" ".join)
def test_ruff_is_content(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "ruff", *arguments, "--quiet", "."]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.stdout + result.stderr == ""
    assert result.returncode == 0


def test_mypy_sees_the_packages_by_their_installed_names() -> None:
    links = types.link_tree()
    for module in ("patterns/softmax.py", "lowering/fusion.py", "version.py"):
        assert (links / "tile_backend" / module).is_file()
    assert types.real_path(".cache/typed/tile_backend/patterns/softmax.py:3: error") == (
        "patterns/softmax.py:3: error"
    )
    shutil.rmtree(links)
