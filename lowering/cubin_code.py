"""The machine code in a cubin, without names, line numbers and other notes around it.

Two variants of a kernel whose code and resources are equal run alike, whatever hints they were
compiled with. A cubin is an ELF file of 64 bits; its code is in the sections called .text. One that
a compiler has not written to its end is told by what its own tables say is in it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from tile_backend.lowering.cubin_file import ELF

SEGMENTS_AT, HEADERS_AT, SEGMENT_COUNTS_AT, COUNTS_AT = 0x20, 0x28, 0x36, 0x3A
HEADER = struct.Struct("<IIQQQQIIQQ")
"""A section's name, type, flags, address, offset, size, and four more numbers."""
NOT_IN_THE_FILE = 8
"""The type of a section that is memory only."""


def machine_code(image: bytes) -> bytes:
    """All of it; the whole image where that is no such file."""
    try:
        return b"\0".join(code for name, code in sections(image) if name.startswith(b".text"))
    except (struct.error, ValueError, IndexError):
        return image


def is_whole(image: bytes) -> bool:
    """Whether it is such a file, with every section and table that it says it has."""
    try:
        (begin,) = struct.unpack_from("<Q", image, HEADERS_AT)
        size, count = struct.unpack_from("<HH", image, COUNTS_AT)
        headers = [HEADER.unpack_from(image, begin + index * size) for index in range(count)]
        (segments,) = struct.unpack_from("<Q", image, SEGMENTS_AT)
        segment_size, segment_count = struct.unpack_from("<HH", image, SEGMENT_COUNTS_AT)
    except struct.error:
        return False
    ends = [
        offset + length for _, kind, _, _, offset, length, *_ in headers if kind != NOT_IN_THE_FILE
    ]
    ends.append(segments + segment_size * segment_count)
    return image.startswith(ELF) and count > 0 and max(ends) <= len(image)


def sections(image: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names and contents."""
    (begin,) = struct.unpack_from("<Q", image, HEADERS_AT)
    size, count, names = struct.unpack_from("<HHH", image, COUNTS_AT)
    headers = [HEADER.unpack_from(image, begin + index * size) for index in range(count)]
    table = image[headers[names][4] :]
    for name, _, _, _, offset, length, *_ in headers:
        yield table[name : table.index(b"\0", name)], image[offset : offset + length]
