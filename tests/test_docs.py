"""README.md, DESIGN.md and docs/ agree with the code: commands, options, names, links, versions."""

from __future__ import annotations

import argparse
import importlib
import re
from pathlib import Path

import pytest

import tile_backend
from tests.lint.portable import INDEX_HOST, MACHINE_PATH
from tile_backend import cli, supported
from tile_backend.option_sources import DISABLE, OF_THE_STORES
from tile_backend.options import Options, option_infos
from tile_backend.patterns import all_fusions

ROOT = Path(__file__).parents[1]
PAGES = tuple(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"))
    if path.name != "coverage.md"  # written by `make coverage`
)
README = (ROOT / "README.md").read_text()
DESIGN = (ROOT / "DESIGN.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PICTURE = "![The page of a dump](docs/dump.png)"
LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")


def read(page: str) -> str:
    return (ROOT / page).read_text()


def blocks(text: str, language: str) -> list[str]:
    return [content for kind, content in BLOCK.findall(text) if kind == language]


def code_of(text: str) -> str:
    """Everything that is set as code: blocks and inline spans."""
    inline = re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))
    return "\n".join([*(content for _, content in BLOCK.findall(text)), *inline])


# --- names that must exist ------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_make_targets_exist(page: str) -> None:
    makefile = read("Makefile")
    for target in re.findall(r"\bmake ([a-z][a-z-]*)", code_of(read(page))):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page}: make {target}"


@pytest.mark.parametrize("page", PAGES)
def test_commands_exist(page: str) -> None:
    """Each `python -m tile_backend ...` line parses, with its arguments."""
    (subcommands,) = (
        action.choices or {}
        for action in cli.parser()._actions
        if isinstance(action, argparse._SubParsersAction)
    )
    for arguments in re.findall(r"python -m tile_backend ([^\n#]+)", code_of(read(page))):
        words = [word.strip("'\"`") for word in arguments.split()]
        assert words[0] in subcommands, f"{page}: {arguments}"
        if "TARGET" not in words and len(words) > 1:
            assert cli.parser().parse_args(words)


@pytest.mark.parametrize("page", PAGES)
def test_modules_that_are_run_exist(page: str) -> None:
    for name in re.findall(r"python -m ((?:tile_backend|tests|bench)[\w.]*)", code_of(read(page))):
        assert importlib.util.find_spec(name) is not None, f"{page}: python -m {name}"


@pytest.mark.parametrize("page", PAGES)
def test_options_exist(page: str) -> None:
    known = {*option_infos(), *(op.name for fusion in all_fusions() for op in fusion.ops)}
    text = read(page)
    for name in re.findall(r"(?<![\w.])tilegym\.([a-z_]+)", text):
        assert name in known, f"{page}: tilegym.{name}"
    variables = {f"TILEGYM_{name.upper()}" for name in option_infos()} | {DISABLE, *OF_THE_STORES}
    for name in re.findall(r"\bTILEGYM_[A-Z_]+\b", text):
        assert name in variables, f"{page}: {name}"


@pytest.mark.parametrize("page", PAGES)
def test_python_names_exist(page: str) -> None:
    for path in re.findall(r"(?<![\w.])tile_backend((?:\.\w+)+)", code_of(read(page))):
        names = path.strip(".").removesuffix(".py").split(".")
        found: object = tile_backend
        for index, name in enumerate(names):
            module = ".".join(["tile_backend", *names[: index + 1]])
            if not hasattr(found, name):
                importlib.import_module(module)
            found = getattr(found, name)


def test_the_values_of_options_are_allowed() -> None:
    for block in blocks(README, "python"):
        for name, value in re.findall(r'"(tilegym\.\w+)": ("[\w-]+")', block):
            Options.parse({name: value.strip('"')}, environ={})


# --- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_python_blocks_compile(page: str) -> None:
    for block in blocks(read(page), "python"):
        compile(block, page, "exec")


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for link in LINK.findall(BLOCK.sub("", read(page))):
        if link.startswith("https://"):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", BLOCK.sub("", target.read_text()), re.MULTILINE)
            assert anchor in [heading.lower().replace(" ", "-") for heading in headings], link


@pytest.mark.parametrize("page", PAGES)
def test_pages_name_no_machine_and_no_package_index(page: str) -> None:
    text = read(page)
    assert not MACHINE_PATH.search(text)
    assert not INDEX_HOST.search(text)


@pytest.mark.parametrize("page", ("README.md", "DESIGN.md", "docs/limits.md", "docs/fusions.md"))
def test_pages_are_plain_text_without_ornaments(page: str) -> None:
    text = read(page)
    assert text.isascii()
    assert "![" not in text.replace(PICTURE, "")


def test_the_readme_states_the_supported_versions() -> None:
    for name, limits in (
        ("torch", supported.TORCH),
        ("Transformers", supported.TRANSFORMERS),
        ("Python", supported.PYTHON),
    ):
        assert f"{name} {supported.text(limits[0])} to {supported.text(limits[1])}" in README
    pinned = dict(re.findall(r"^([\w-]+)==(\S+)$", read("constraints.txt"), re.MULTILINE))
    assert f"torch {pinned['torch']} with Transformers {pinned['transformers']}" in README


def test_the_design_lists_every_shipped_file() -> None:
    """A new file needs a line in the tree of DESIGN.md, a removed one must leave it."""
    (tree,) = (block for block in blocks(DESIGN, "text") if block.startswith("tile_backend/"))
    listed: set[str] = set()
    folder = ""
    for line in tree.splitlines():
        if not line.startswith(" "):
            folder = line.split()[0]
        listed.update(folder + name for name in re.findall(r"(?<!\S)\w+\.py\b", line))
    inner = ("lowering/kernels", "lowering/interpreter", "lowering/mask")
    folders = ("tile_backend", "patterns", "lowering", *inner)
    shipped = {f"{f}/{path.name}" for f in folders for path in (ROOT / f).glob("*.py")}
    assert sorted(shipped ^ listed) == []
