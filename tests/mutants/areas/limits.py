"""What fusions and kernels refuse.

Each limit, lifted: widths, dtypes, shapes, ranges of integers.
"""

from __future__ import annotations

from tests.mutants.mutant import Mutant

PLAN = "lowering/kernels/attention_plan.py"
PLACES = "lowering/kernels/attention_places.py"
LAUNCH = "lowering/kernels/launch_plan.py"
ROTARY = "lowering/kernels/rotary_plan.py"
LOSSES = "tests/test_linear_cross_entropy_forms.py"
LIMITS = "tests/test_kernel_limits.py"
OF_ATTENTION = f"{LIMITS}::test_limits_of_attention"
OF_ALL = f"{LIMITS}::test_limits_say_what_is_wrong"
PLANS = "tests/test_kernel_plan.py"

MUTANTS = (
    Mutant(
        "losses-per-token-are-trained",
        "patterns/linear_cross_entropy.py",
        '    if arguments["reduction"] != "none" or not any(',
        "    if True or not any(",
        (f"{LOSSES}::test_a_loss_per_token_is_not_trained_without_logits",),
    ),
    Mutant(
        "wider-heads",
        PLAN,
        "WIDEST_HEAD = {torch.bfloat16: 256,",
        "WIDEST_HEAD = {torch.bfloat16: 512,",
        (f"{LIMITS}::test_a_head_wider_than_the_tiles_is_refused",),
    ),
    Mutant(
        "any-number-of-key-heads",
        PLAN,
        "    if k.shape[1] == 0 or heads % k.shape[1]:",
        "    if k.shape[1] == 0:",
        (OF_ATTENTION,),
    ),
    Mutant(
        "heads-need-not-fit",
        PLAN,
        "    if k.shape[0] != batch or k.shape[3] != width or v.shape[:3] != k.shape[:3]:",
        "    if False:",
        (OF_ATTENTION,),
    ),
    Mutant(
        "no-keys",
        PLAN,
        "    if k.shape[2] == 0:",
        "    if False:",
        (OF_ATTENTION,),
    ),
    Mutant(
        "masks-need-not-fit",
        PLAN,
        "    if any(n not in (1, size) for n, size in zip(mask.shape, wanted, strict=True)):",
        "    if False:",
        (OF_ATTENTION,),
    ),
    Mutant(
        "a-finite-fill-beside-a-mask-that-is-added",
        PLAN,
        "        if where.hides and math.isfinite(fill):",
        "        if False:",
        (OF_ATTENTION,),
    ),
    Mutant(
        "a-log-sum-exp-of-fills-that-count",
        PLAN,
        "    if lse is not None and empty == FILLED:",
        "    if False:",
        (f"{LIMITS}::test_a_fill_that_counts_has_no_log_sum_exp",),
    ),
    Mutant(
        "a-finite-fill-becomes-infinite",
        PLAN,
        "        if math.isfinite(self.fill):",
        "        if False:",
        (f"{PLANS}::test_a_finite_fill_stays_finite",),
    ),
    Mutant(
        "positions-beyond-int32",
        PLACES,
        "    if not -FAR < start < FAR or k.shape[2] >= FAR or q.shape[2] >= FAR:",
        "    if False:",
        (OF_ATTENTION,),
    ),
    Mutant(
        "segments-of-any-dtype",
        PLACES,
        "        if value is not None and value.dtype not in (torch.int32, torch.int64):",
        "        if False:",
        (OF_ATTENTION,),
    ),
    Mutant(
        "grids-of-any-size",
        LAUNCH,
        "        if not 1 <= blocks <= most:",
        "        if False:",
        (f"{LIMITS}::test_the_grid_is_checked",),
    ),
    Mutant(
        "float64-is-taken",
        LAUNCH,
        "FLOATS = (torch.bfloat16, torch.float16, torch.float32)",
        "FLOATS = (torch.bfloat16, torch.float16, torch.float32, torch.float64)",
        (f"{PLANS}::test_float64_is_refused_by_name",),
    ),
    Mutant(
        "two-dtypes-are-one",
        LAUNCH,
        "        if other.dtype != tensor.dtype:",
        "        if False:",
        (OF_ALL,),
    ),
    Mutant(
        "two-shapes-are-one",
        LAUNCH,
        "        if other.shape != tensor.shape:",
        "        if False:",
        (OF_ALL,),
    ),
    Mutant(
        "int32-for-everything",
        LAUNCH,
        "    return Launch(kernel.wide if large else kernel, grid, args)",
        "    return Launch(kernel, grid, args)",
        (f"{PLANS}::test_tensors_that_span_more_than_int32_get_the_wide_kernel",),
    ),
    Mutant(
        "nothing-is-launched-for-nothing",
        LAUNCH,
        "    return all(out is None or out.numel() == 0 for out in outputs)",
        "    return False",
        (f"{PLANS}::test_empty_tensors_are_not_launched",),
    ),
    Mutant(
        "half-a-pair",
        ROTARY,
        "    if rotated > width or rotated % 2 or rotated == 0:",
        "    if rotated > width or rotated == 0:",
        (OF_ALL, f"{LIMITS}::test_half_a_pair_is_refused"),
    ),
    Mutant(
        "tables-of-any-width",
        ROTARY,
        "    if table.shape[-1] not in (rotated, rotated // 2):",
        "    if False:",
        (OF_ALL,),
    ),
    Mutant(
        "rows-of-any-width",
        "lowering/kernels/norm_plan.py",
        "    if width > limit:",
        "    if False:",
        (OF_ALL,),
    ),
)
