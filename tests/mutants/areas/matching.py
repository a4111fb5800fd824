"""What is found, and who gets it.

Unification, sizes, the plan, and the merging of sites.
"""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MATCH = "lowering/match.py"
OPERATIONS = "lowering/canonical_ops.py"
TERMS = "lowering/terms.py"
SIZES = "lowering/match_sizes.py"
PLAN = "lowering/plan.py"
MERGE = "lowering/merge.py"
ALIKE = "tests/test_safety_lookalikes.py::test_is_not_taken_for_it"
SHAPES = "tests/test_safety_shapes.py"
PLANNED = "tests/test_core_plan.py"

MUTANTS = (
    Mutant(
        "nothing-is-found",
        PLAN,
        "    elif found is not None:",
        "    elif False:",
        (f"{SHAPES}::test_gates_of_odd_sizes",),
    ),
    Mutant(
        "one-hole-may-be-two-values",
        MATCH,
        "            if binding.terms[wanted] is not term:",
        "            if False:",
        (f"{ALIKE}[another_tensor_is_scaled]",),
    ),
    Mutant(
        "differences-commute",
        OPERATIONS,
        '    **dict.fromkeys(("sub", "div",',
        '    "sub": SWAPS,\n    **dict.fromkeys(("div",',
        (f"{ALIKE}[halves_turned_the_other_way_and_back]",),
    ),
    Mutant(
        "sums-do-not-commute",
        MATCH,
        "            for order in (parts, ((p, y), (q, x))):",
        "            for order in (parts,):",
        (f"{SHAPES}::test_factors_in_any_order",),
    ),
    Mutant(
        "dimensions-are-not-compared",
        MATCH,
        "        elif expected != actual:",
        "        elif False:",
        (f"{ALIKE}[mean_over_rows]",),
    ),
    Mutant(
        "operands-of-any-rank",
        MATCH,
        "    return term.rank == len(names)\n",
        "    return True\n",
        (f"{SHAPES}::test_weights_of_any_shape",),
    ),
    Mutant(
        "numbers-are-equal-to-three-digits",
        TERMS,
        "abs(a - b) <= 1e-6 * max(abs(a), abs(b))",
        "abs(a - b) <= 1e-3 * max(abs(a), abs(b))",
        (f"{ALIKE}[tanh_gelu_with_a_rounded_constant]",),
    ),
    Mutant(
        "one-number-may-be-two",
        MATCH,
        "            bound is value\n",
        "            True\n",
        ("tests/test_safety_attention.py::test_is_not_attention",),
    ),
    Mutant(
        "shapes-need-not-be-alike",
        SIZES,
        "        for name in members[1:]:",
        "        for name in ():",
        (f"{SHAPES}::test_an_up_that_broadcasts",),
    ),
    Mutant(
        "one-dimension-may-have-two-sizes",
        SIZES,
        "actual, sizes.setdefault(key, actual))",
        "actual, sizes.setdefault(key, actual) and actual)",
        (f"{SHAPES}::test_weights_of_any_shape",),
    ),
    Mutant(
        "stated-sizes-are-not-compared",
        SIZES,
        "    for wanted, actual in stated:",
        "    for wanted, actual in ():",
        (f"{ALIKE}[halves_are_unequal]",),
    ),
    Mutant(
        "regions-are-given-twice",
        PLAN,
        "        if any(node in claimed for node in weighty(candidate.extent, canonical)):",
        "        if False:",
        (f"{PLANNED}::test_attention_takes_its_softmax",),
    ),
    Mutant(
        "the-lowest-priority-wins",
        PLAN,
        "        return -candidate.match.fusion.priority, -size",
        "        return candidate.match.fusion.priority, -size",
        (f"{PLANNED}::test_the_sum_goes_with_its_norm",),
    ),
    Mutant(
        "the-user-is-not-asked",
        PLAN,
        "    if not allows(candidate.fusion, candidate.module):",
        "    if False:",
        (f"{PLANNED}::test_an_excluded_fusion_leaves_its_region_to_the_next",),
    ),
    Mutant(
        "other-tables-are-merged",
        MERGE,
        "    shared = tuple(candidate.match.operands.get(name) for name in rule.shared)",
        "    shared = ()",
        (f"{PLANNED}::test_q_and_k_of_different_tables_are_not_merged",),
        equal="all operands but the separate one are compared as well, the tables among them",
    ),
    Mutant(
        "q-and-k-are-exchanged",
        MERGE,
        "    arguments = {**first.call.arguments, rule.first: first.call.arguments[rule.separate]}"
        "\n    arguments[rule.second] = second.call.arguments[rule.separate]",
        "    arguments = {**first.call.arguments, rule.first: second.call.arguments[rule.separate]}"
        "\n    arguments[rule.second] = first.call.arguments[rule.separate]",
        (f"{PLANNED}::test_merged_sites_keep_gradients", f"{PLANNED}::test_q_and_k_of_two_sizes"),
    ),
    Mutant(
        "sites-of-two-calls-are-merged",
        MERGE,
        "    return calling, tuple(names[last + 1 : last + 2])",
        "    return ()",
        (f"{PLANNED}::test_two_calls_in_forward_are_two_sites",),
    ),
    Mutant(
        "merged-sites-cross-a-write",
        MERGE,
        "    if reason is not None or first.call is None or second.call is None:",
        "    if first.call is None or second.call is None:",
        (f"{PLANNED}::test_a_switch_between_q_and_k_keeps_them_apart",),
    ),
)
