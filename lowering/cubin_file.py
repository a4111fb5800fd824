"""One compiled kernel as the bytes of a file, and back; bytes that are not it are never believed.

An .xz stream with a SHA-256 check, which any xz tool reads: one line of JSON that says what the
kernel is, then the cubin. The check finds accidents. Who may have written the file is asked by who
reads it (`own_file`), since a cubin is code that runs. xz is in the standard library, and made the
smallest files of what is there: 7 to 75 KB a kernel, a quarter less than zlib. Unpacking takes 0.4
to 2 ms, once per process.
"""

from __future__ import annotations

import dataclasses
import json
import lzma

from tile_backend.lowering.own_file import DamagedError

FORMAT = "tile-backend cubin 1"
SUFFIX = ".cubin.xz"
LARGEST = 1 << 26
"""Bytes that a file may unpack to: 64 MiB, hundreds of times the largest kernel."""
ELF = b"\x7fELF"


@dataclasses.dataclass(frozen=True)
class Key:
    """What a compiled kernel depends on, but for the version of its compiler.

    kernel: the name of its function; arch: "sm_90"; digest: of source, signature, hints and the
    version of cuda-tile, in hexadecimal.
    """

    kernel: str
    arch: str
    digest: str

    def __str__(self) -> str:
        return f"{self.kernel}-{self.arch}-{self.digest}"


@dataclasses.dataclass(frozen=True)
class Cubin:
    """image: an ELF file for one architecture. symbol: the kernel's name in it."""

    image: bytes
    symbol: str


def pack(key: Key, compiler: str, cubin: Cubin) -> bytes:
    """The content of a file. compiler: a version such as "13.4.92"."""
    facts = _facts(key) | {"compiler": compiler, "symbol": cubin.symbol}
    head = json.dumps(facts, sort_keys=True).encode()
    return lzma.compress(head + b"\n" + cubin.image, check=lzma.CHECK_SHA256)


def unpack(key: Key, content: bytes) -> Cubin:
    """The compiled kernel of `key`. Raises DamagedError."""
    head, newline, image = _unpacked(content).partition(b"\n")
    try:
        facts = json.loads(head) if newline else None
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise DamagedError("it was not written by this version of tile-backend")
    expected = _facts(key)
    differing = [name for name, value in expected.items() if facts.get(name) != value]
    if differing or not isinstance(facts.get("symbol"), str):
        raise DamagedError(f"it holds another kernel ({', '.join(differing) or 'symbol'} differs)")
    if not image.startswith(ELF):
        raise DamagedError("what it holds is no cubin")
    return Cubin(image, facts["symbol"])


def _facts(key: Key) -> dict[str, str]:
    return {"format": FORMAT} | dataclasses.asdict(key)


def _unpacked(content: bytes) -> bytes:
    decoder = lzma.LZMADecompressor(format=lzma.FORMAT_XZ)
    try:
        data = decoder.decompress(content, max_length=LARGEST)
    except lzma.LZMAError as error:
        raise DamagedError(f"it does not unpack ({error})") from None
    if not decoder.eof or decoder.unused_data or decoder.check != lzma.CHECK_SHA256:
        raise DamagedError("it is cut off, too long, or not checked by SHA-256")
    return data
