"""What judges results.

The budget, the float64 oracle, certificates, bits, and the checks at run time.
"""

from __future__ import annotations

from tests.mutants.mutant import Mutant

BUDGET = "lowering/budget.py"
ORACLE = "lowering/oracle.py"
CERTIFY = "lowering/certify.py"
BUDGETED = "tests/test_ops_budget.py"
EXACT = "tests/test_ops_oracle.py"
FAULTS = "tests/test_certificates_faults.py"
FINITE = f"{BUDGETED}::test_infinities_and_nans"

MUTANTS = (
    Mutant(
        "budget-doubled",
        BUDGET,
        "FACTOR = 2.0",
        "FACTOR = 4.0",
        (f"{BUDGETED}::test_twice_the_error_of_the_original_is_allowed",),
    ),
    Mutant(
        "steps-doubled",
        BUDGET,
        "    return math.ldexp(info.eps, exponent - 1)",
        "    return math.ldexp(info.eps, exponent)",
        (f"{BUDGETED}::test_rounding_step_is_the_spacing_of_the_dtype",),
    ),
    Mutant(
        "only-the-maximum-counts",
        BUDGET,
        "self.max_error <= self.max_allowed and self.rms_error <= self.rms_allowed",
        "self.max_error <= self.max_allowed",
        (f"{BUDGETED}::test_the_root_mean_square_sees_what_the_maximum_does_not",),
    ),
    Mutant(
        "one-good-output-is-enough",
        BUDGET,
        "        return all(output.ok for output in self.outputs)",
        "        return any(output.ok for output in self.outputs)",
        (f"{BUDGETED}::test_a_verdict_is_of_all_outputs",),
    ),
    Mutant(
        "another-dtype-is-judged",
        BUDGET,
        "    if y.dtype != y_ref.dtype:",
        "    if False:",
        (f"{BUDGETED}::test_what_cannot_be_compared_is_over_budget",),
    ),
    Mutant(
        "nan-is-any-number",
        BUDGET,
        "    if count := int(lost.sum()):",
        "    if count := 0:",
        (FINITE,),
    ),
    Mutant(
        "infinities-are-any-number",
        BUDGET,
        "    if count := int(_differs(y, y64, y_ref).sum()):\n        return Measured(",
        "    if count := 0:\n        return Measured(",
        (FINITE,),
    ),
    Mutant(
        "certificates-try-ordinary-numbers-only",
        CERTIFY,
        'problem = of_unusual(trial) if verdict else ""',
        'problem = ""',
        (f"{FAULTS}::test_what_shows_only_beside_nan_infinity_and_huge_numbers",),
    ),
    Mutant(
        "other-integers-are-as-good",
        BUDGET,
        'problem="" if torch.equal(y, y_ref) else "values differ"',
        'problem=""',
        (f"{BUDGETED}::test_integers_and_booleans_must_be_equal",),
    ),
    Mutant(
        "the-oracle-narrows",
        ORACLE,
        "        result = CASTS.get(func, func)(*args, **kwargs)",
        "        result = func(*args, **kwargs)",
        (f"{EXACT}::test_casts_to_narrower_floats_mean_float64",),
    ),
    Mutant(
        "the-oracle-takes-narrow-numbers",
        ORACLE,
        "            if isinstance(value, torch.Tensor) and value.dtype in WIDE:",
        "            if False:",
        (f"{EXACT}::test_a_narrow_tensor_is_an_error_that_names_the_function",),
    ),
    Mutant(
        "the-oracle-runs-our-ops",
        ORACLE,
        "            func = self._reference_of(func) or func",
        "            pass",
        (f"{EXACT}::test_an_op_of_ours_runs_as_its_exact_reference",),
    ),
    Mutant(
        "every-site-is-certified",
        CERTIFY,
        "    if verdict:\n        ran",
        "    if True:\n        ran",
        (f"{FAULTS}::test_a_wrong_declaration",),
    ),
    Mutant(
        "the-original-is-its-own-judge",
        CERTIFY,
        "    ours, wide, theirs = filled(new, exact, trial.original)",
        "    ours, wide, theirs = filled(trial.original, exact, trial.original)",
        (f"{FAULTS}::test_a_wrong_declaration",),
    ),
    Mutant(
        "one-draw-decides",
        CERTIFY,
        "        if not verdict and math.isfinite(verdict.used):",
        "        if False:",
        ("tests/test_certificates.py::test_the_luck_of_one_largest_error_does_not_decide",),
    ),
    Mutant(
        "a-missing-gradient-is-right",
        CERTIFY,
        "torch.zeros_like(like) if t is None and like is not None else t for t in row",
        "like if t is None and like is not None else t for t in row",
        (f"{FAULTS}::test_a_gradient_that_is_missing",),
    ),
    Mutant(
        "signs-of-zero-are-alike",
        "lowering/same_bits.py",
        "    same = (a == b) & (a.signbit() == b.signbit()) | (a.isnan() & b.isnan())",
        "    same = (a == b) | (a.isnan() & b.isnan())",
        ("tests/test_bitwise.py::test_bits_are_compared",),
    ),
    Mutant(
        "what-diverges-is-passed-on",
        "lowering/run_time_check.py",
        "    return [r.clone().copy_(better) for r, better in zip(results, expected, strict=True)]",
        "    return [r.clone() for r in results]",
        (
            "tests/test_verify_always.py::test_a_wrong_result_is_replaced_saved_and_warned_about_once",
        ),
    ),
    Mutant(
        "nothing-diverges",
        "lowering/run_time_check.py",
        "    if verdict:\n        return [result.clone() for result in results]",
        "    if True:\n        return [result.clone() for result in results]",
        (
            "tests/test_verify_always.py::test_a_wrong_result_is_replaced_saved_and_warned_about_once",
        ),
    ),
)
