"""Names of files and folders that are made from module paths, titles and source lines.

Letters of any script stay; other signs become "_". A name has at most so many bytes of UTF-8, which
is what file systems count: they allow 255. What is cut off, or told apart by signs that are not
kept, is replaced by a short digest of the whole text, so that different texts keep different names.
"""

from __future__ import annotations

import hashlib
import re

LONGEST = 150
"""Bytes of a name; paths of several such names have a limit as well."""
DIGEST = 8
UNSAFE = re.compile(r"[^\w.-]")
SEPARATORS = " :"
"""Signs between the parts of a text, which tell nothing apart."""


def safe(text: str, distinct: bool = False, longest: int = LONGEST) -> str:
    """distinct: two texts may not have one name, because of what is not kept of them."""
    name = UNSAFE.sub("_", text)
    lost = distinct and any(sign not in SEPARATORS for sign in UNSAFE.findall(text))
    if len(name.encode()) <= longest and not lost:
        return name
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:DIGEST]
    return f"{name.encode()[: longest - DIGEST - 1].decode(errors='ignore')}-{digest}"
