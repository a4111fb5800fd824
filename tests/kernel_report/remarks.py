"""The compiler's remarks as counts: which instruction it chose for a load, a store, a product.

YAML of a fixed form, one `Key: value` a line. A remark may be written more than once (the
compiler runs its passes again with other settings); those of one number are one.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Mapping

IDENTITY = re.compile(r"^  - RemarkId: +(\d+)$", re.M)
INSTRUCTION = re.compile(r"^  - Instruction: +(.+)$", re.M)


def chosen(text: str) -> Mapping[str, int]:
    """Instruction in the compiler's words -> places in the kernel for which it was chosen."""
    remarks: dict[str, str] = {}
    for remark in text.split("\n--- "):
        number, instruction = IDENTITY.search(remark), INSTRUCTION.search(remark)
        if number and instruction:
            remarks[number[1]] = instruction[1].strip("'\" ")
    return dict(sorted(collections.Counter(remarks.values()).items()))
