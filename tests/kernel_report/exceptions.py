"""The kernels that do not pass a gate of `gates`, and why they are shipped all the same.

Spills that a reason names were counted as those of the report are, with the compiler's hint
`occupancy` set to the number of warps that it names.
"""

from __future__ import annotations

import dataclasses

from tests.kernel_compile import ARCHITECTURES

FEWEST_WARPS = 32
"""Of a streaming kernel per multiprocessor: enough loads in flight to keep memory busy."""


@dataclasses.dataclass(frozen=True)
class Exempt:
    """kernel: a glob over "op-sample". measured: the worst number of its findings."""

    gate: str
    kernel: str
    archs: tuple[str, ...]
    measured: int
    reason: str


def held(kernel: str, values: int, resident: int, spills: str) -> Exempt:
    """A row kernel with fewer warps, since it reads a row once and holds it."""
    short = FEWEST_WARPS - resident
    reason = f"{values} values of its row in registers of each thread: {spills}"
    return Exempt("warps", kernel, ARCHITECTURES, short, reason)


WIDEST = "the widest row that the kernel takes, 128 values in registers of each thread"
GRADIENTS = "both gradients of its keys, 256 wide, fill tensor memory: nothing is left for scores"
THIN = "a tile of 16 queries; {} takes 64 rows, and three quarters of them would be empty"
GROUP = (
    "a tile of 16 rows for a group of heads; {} takes 64, and the time goes into reading keys and"
    " values"
)

EXCEPTIONS = (
    held("rms_norm-offset", 48, 24, "at 32 warps 5 spills on sm_100"),
    held("rms_norm-one_row", 64, 8, "at 16 warps 35 spills on sm_90"),
    held("rms_norm_add-offset", 48, 24, "at 32 warps 12 spills on sm_100"),
    held("rms_norm_add-one_row", 64, 16, "at 24 warps 8 spills on sm_100"),
    held("add_rms_norm-large", 32, 24, "at 32 warps 37 spills on sm_90"),
    held("add_rms_norm-offset", 48, 8, "at 16 warps 12 spills on sm_90"),
    held("add_rms_norm-one_row", 64, 8, "at 16 warps 29 spills on sm_90"),
    held("layer_norm-plain", 48, 24, "at 32 warps 50 spills on sm_90"),
    Exempt("warps", "*norm*-widest", ARCHITECTURES, 24, WIDEST),
    Exempt("spills", "rms_norm-widest", ("sm_90",), 2, WIDEST),
    Exempt("spills", "rms_norm_add-widest", ("sm_90", "sm_100"), 34, WIDEST),
    Exempt("spills", "layer_norm-widest", ("sm_90", "sm_100"), 103, WIDEST),
    Exempt("products", "attention-*decode*", ("sm_90",), 256, THIN.format("HGMMA")),
    Exempt(
        *("products", "attention-float32_decode_wide", ("sm_90",), 384),
        "a tile of 32 rows for few queries; HGMMA takes 64 rows, and half of them would be empty",
    ),
    Exempt("products", "attention-*decode*", ("sm_100",), 256, THIN.format("UTCHMMA")),
    Exempt(
        *("spills", "attention-capped_window", ("sm_100",), 3),
        "heads of 256 with a window and a soft cap; three of 7000 instructions",
    ),
    Exempt("products", "attention_split-*", ("sm_90",), 192, GROUP.format("HGMMA")),
    Exempt("products", "attention_split-*", ("sm_100",), 192, GROUP.format("UTCHMMA")),
    Exempt("spills", "attention_grad_kv-wide*", ("sm_100",), 230, GRADIENTS),
    Exempt("products", "attention_grad_kv-wide*", ("sm_100",), 128, GRADIENTS),
    Exempt(
        *("spills", "attention_grad_kv-attend", ("sm_90",), 2),
        "one value beside a loop of 2400 instructions; tiles of half the keys spill more",
    ),
)
