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


def summing(kernel: str, gains: str, resident: int, more: int, spills: tuple[int, int]) -> Exempt:
    """A gradient of a norm with fewer warps, since it sums over rows in registers.

    spills: loads and stores on sm_90 with so many more warps that the hint allows.
    """
    reason = (
        f"a row and its part of the sums for {gains} in registers of each thread:"
        f" at {more} warps {spills[0]} loads and {spills[1]} stores of spilled ones on sm_90"
    )
    return Exempt("warps", kernel, ARCHITECTURES, FEWEST_WARPS - resident, reason)


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
    summing("rms_norm_grad-float32_weight", "the weight", 24, 32, (3, 3)),
    summing("rms_norm_grad-usual", "the weight", 24, 32, (16, 16)),
    summing("rms_norm_grad-added", "the weight", 24, 32, (16, 16)),
    summing("rms_norm_grad-between", "the weight", 16, 24, (26, 26)),
    summing("rms_norm_grad-large", "the weight", 16, 24, (69, 93)),
    summing("layer_norm_grad-heads", "both gains", 24, 32, (14, 21)),
    summing("layer_norm_grad-float32_weight", "both gains", 24, 32, (14, 14)),
    summing("layer_norm_grad-usual", "both gains", 16, 24, (41, 41)),
    summing("layer_norm_grad-between", "both gains", 16, 24, (91, 113)),
    summing("layer_norm_grad-large", "both gains", 8, 16, (68, 77)),
    Exempt(
        *("warps", "layer_norm_grad-frozen", ARCHITECTURES, 8),
        "16 values of x and of dout in registers of each thread, and three sums over the row",
    ),
    Exempt(
        *("warps", "layer_norm_grad-weightless", ("sm_90", "sm_100", "sm_120"), 4),
        "rows whose last piece is masked: at 32 warps 3 loads and 3 stores of spills on sm_100",
    ),
    Exempt(
        *("warps", "softmax_grad-vocabulary", ARCHITECTURES, 16),
        "x in bfloat16 and dout in float32 of a long row: at 24 warps 5 spills on sm_90",
    ),
    Exempt(
        *("spills", "layer_norm_grad-between", ("sm_100",), 24),
        "half as many warps would be needed to hold these few values",
    ),
    Exempt("spills", "rms_norm_grad-widest", ("sm_90",), 16, WIDEST),
    Exempt("spills", "layer_norm_grad-widest", ("sm_90", "sm_100"), 874, WIDEST),
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
