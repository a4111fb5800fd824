"""Nothing in the tree is true of one machine only: no paths of a checkout, no package indexes.

Where packages come from is the business of the user's pip configuration, and where the project lies
is the user's choice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.lint.source_tree import Finding, SourceTree

MACHINE_PATH = re.compile(r"(?<![\w.$}*/-])/(?:work|root|home|farm|Users|tmp)/[\w.-]+")
INDEX_HOST = re.compile(
    r"\b(?:[\w-]+\.)*(?:pypi\.org|pythonhosted\.org|download\.pytorch\.org|pypi\.nvidia\.com|"
    r"anaconda\.org)\b|(?:--index-url|--extra-index-url|--find-links)\b"
)
EXEMPT = ("tests/lint/", "tests/test_habits.py")
"""These hold the expressions themselves and the examples that show that they bite."""


def machine_paths(tree: SourceTree) -> Iterator[Finding]:
    """No absolute path of somebody's machine."""
    yield from _search(tree, MACHINE_PATH, "a path of one machine: make it relative")


def index_hosts(tree: SourceTree) -> Iterator[Finding]:
    """No package index and no pip option that names one."""
    yield from _search(tree, INDEX_HOST, "a package index: leave the choice to pip's configuration")


def _search(tree: SourceTree, pattern: re.Pattern[str], text: str) -> Iterator[Finding]:
    for path, source in tree.text.items():
        if path.startswith(EXEMPT):
            continue
        for number, line in enumerate(source.splitlines(), start=1):
            if match := pattern.search(line):
                yield Finding(path, number, f"{match.group()} is {text}")
