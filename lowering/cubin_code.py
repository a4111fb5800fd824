"""The machine code in a cubin, without names, line numbers and other notes around it.

Two variants of a kernel whose code and resources are equal run alike, whatever hints they were
compiled with. A cubin is an ELF file of 64 bits; its code is in the sections called .text.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

HEADERS_AT, COUNTS_AT = 0x28, 0x3A
HEADER = struct.Struct("<IIQQQQIIQQ")
"""A section's name, type, flags, address, offset, size, and four more numbers."""


def machine_code(image: bytes) -> bytes:
    """All of it; the whole image where that is no such file."""
    try:
        return b"\0".join(code for name, code in sections(image) if name.startswith(b".text"))
    except (struct.error, ValueError, IndexError):
        return image


def sections(image: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and contents."""
    (begin,) = struct.unpack_from("<Q", image, HEADERS_AT)
    size, count, names = struct.unpack_from("<HHH", image, COUNTS_AT)
    headers = [HEADER.unpack_from(image, begin + index * size) for index in range(count)]
    table = image[headers[names][4] :]
    for name, _, _, _, offset, length, *_ in headers:
        yield table[name : table.index(b"\0", name)], image[offset : offset + length]
