"""What forbids a rewrite.

Each check of legality and of the place at which the op reads, turned off or moved by one.
"""

from __future__ import annotations

from tests.mutants.mutant import Mutant

LEGALITY = "lowering/legality.py"
PLACE = "lowering/read_place.py"
MUTATION = "tests/test_safety_mutation.py"
REASONS = "tests/test_core_legality.py"
DECLARED = "tests/test_declared_results.py"
SAVED = "tests/test_safety_saved.py"
LOGITS = "tests/test_linear_cross_entropy_forms.py"

MUTANTS = (
    Mutant(
        "declined-forms-go-in",
        LEGALITY,
        "        match.pattern.spelling.declined\n        or unaliased(extent, canonical)",
        "        unaliased(extent, canonical)",
        ("tests/test_safety_attention.py::test_active_dropout_is_declined_with_a_reason",),
    ),
    Mutant(
        "transformed-tensors-are-taken",
        LEGALITY,
        "        if is_transformed(known):",
        "        if False:",
        ("tests/test_higher_order_bodies.py::test_transformed_code_is_declined",),
    ),
    Mutant(
        "wrapped-tensors-are-taken",
        LEGALITY,
        "if isinstance(known, torch.Tensor) and not is_dense(known):",
        "if False:",
        (f"{REASONS}::test_a_wrapped_tensor_is_left_alone",),
        equal="what is computed of such a tensor is one, and a leaf (canonical): no match has one"
        " inside; that an op is not given one is a second lock",
    ),
    Mutant(
        "interior-values-may-be-written",
        LEGALITY,
        "        if node in canonical.effects.unsettled:",
        "        if False:",
        (
            f"{MUTATION}::test_what_is_left_of_a_norm",
            f"{REASONS}::test_a_declined_program_is_unharmed",
        ),
        equal="what is written to is a leaf (canonical), so no match has it inside: a second lock",
    ),
    Mutant(
        "versions-are-not-compared",
        LEGALITY,
        "        or read_place.same_versions(extent, canonical)\n",
        "",
        (f"{REASONS}::test_the_reason_is_named",),
    ),
    Mutant(
        "interior-values-may-escape",
        LEGALITY,
        "    if not extent.escapes:",
        "    if True:",
        (f"{REASONS}::test_the_reason_is_named",),
    ),
    Mutant(
        "operands-may-come-late",
        LEGALITY,
        "        or read_place.in_order(extent, canonical)\n",
        "",
        (f"{REASONS}::test_a_smaller_match_where_the_larger_has_no_place",),
    ),
    Mutant(
        "operands-may-be-written-after-training-saw-them",
        LEGALITY,
        "        or read_place.kept(extent, canonical)\n",
        "",
        (f"{SAVED}::test_a_write_through_a_view_of_the_operand",),
    ),
    Mutant(
        "others-may-read-the-logits",
        LEGALITY,
        "        if others:\n",
        "        if False:\n",
        (f"{LOGITS}::test_what_reads_or_changes_the_logits_keeps_them",),
    ),
    Mutant(
        "logits-are-dropped-unasked",
        LEGALITY,
        "        if fusion.name not in drops:",
        "        if False:",
        ("tests/test_dropped_logits.py::test_without_the_option_the_report_says_how_to_get_it",),
    ),
    Mutant(
        "a-view-of-the-logits-is-none",
        LEGALITY,
        "if not shareable(node, canonical) or not heavy.isdisjoint(values_read(node)):",
        "if not shareable(node, canonical):",
        (f"{LOGITS}::test_what_reads_or_changes_the_logits_keeps_them",),
    ),
    Mutant(
        "limits-are-not-asked",
        LEGALITY,
        "    for limit in match.fusion.limits:",
        "    for limit in ():",
        ("tests/test_user_limits.py::test_a_site_beyond_a_limit_is_declined_with_its_words",),
    ),
    Mutant(
        "results-are-not-compared",
        "lowering/plan.py",
        "    reason = legality.same_results(made, candidate.extent)\n",
        "    reason = None\n",
        (DECLARED,),
    ),
    Mutant(
        "another-dtype-is-as-good",
        LEGALITY,
        "        if old.dtype != new.dtype:",
        "        if False:",
        (DECLARED,),
    ),
    Mutant(
        "another-shape-is-as-good",
        LEGALITY,
        "        if not shapes.equal(shape(old), shape(new)):",
        "        if False:",
        (DECLARED,),
    ),
    Mutant(
        "another-device-is-as-good",
        LEGALITY,
        "        if old.device != new.device:",
        "        if False:",
        (DECLARED,),
    ),
    Mutant(
        "operands-may-be-on-several-devices",
        LEGALITY,
        "    if len(devices) > 1:",
        "    if False:",
        (DECLARED,),
    ),
    Mutant(
        "writes-between-operands-and-op",
        PLACE,
        "    return undisturbed(extent, canonical) or unchanged(extent, canonical)",
        "    return undisturbed(extent, canonical)",
        ("tests/test_certificates_writes.py",),
    ),
    Mutant(
        "barriers-inside-are-crossed",
        PLACE,
        "    return undisturbed(extent, canonical) or unchanged(extent, canonical)",
        "    return unchanged(extent, canonical)",
        (f"{REASONS}::test_the_reason_is_named",),
    ),
    Mutant(
        "modes-may-be-switched-inside",
        PLACE,
        "if not targets or is_opaque_call(barrier) or targets & read:",
        "if targets and (is_opaque_call(barrier) or targets & read):",
        (f"{REASONS}::test_the_reason_is_named",),
    ),
    Mutant(
        "writes-inside-are-of-other-values",
        PLACE,
        "if not targets or is_opaque_call(barrier) or targets & read:",
        "if not targets or is_opaque_call(barrier):",
        (f"{REASONS}::test_the_reason_is_named",),
    ),
    Mutant(
        "the-other-side-of-a-write-counts",
        PLACE,
        "n for n in elided if (order[n] < order[barrier]) == (order[barrier] < order[where])",
        "n for n in elided if (order[n] < order[barrier]) != (order[barrier] < order[where])",
        (f"{MUTATION}::test_like_eager[old_gate_and_new_input]",),
    ),
    Mutant(
        "the-op-goes-where-its-main-result-is",
        PLACE,
        "    return min((extent.roots[0], *users), key=order.__getitem__)",
        "    return extent.roots[0]",
        (f"{REASONS}::test_a_smaller_match_where_the_larger_has_no_place",),
    ),
    Mutant(
        "shared-casts-do-not-survive",
        PLACE,
        "    gone = set(extent.elided) - surviving(extent, canonical)",
        "    gone = set(extent.elided)",
        (f"{REASONS}::test_a_cast_that_outlives_the_match_reads_the_new_sum",),
    ),
    Mutant(
        "an-operand-may-be-the-first-reader",
        PLACE,
        "    late = [n for n in extent.operands if order[n] >= order[where]]",
        "    late = [n for n in extent.operands if order[n] > order[where]]",
        (f"{REASONS}::test_an_operand_that_is_the_first_to_read_a_result",),
    ),
    Mutant(
        "the-first-reader-may-write-to-an-operand",
        PLACE,
        "if effects.position[w] >= last), None)",
        "if effects.position[w] > last), None)",
        (f"{SAVED}::test_the_first_reader_of_a_result_writes_to_an_operand",),
    ),
    Mutant(
        "writes-outside-of-a-body-do-not-count",
        PLACE,
        "    if writer is None and outside is not None and node in outside.operands:",
        "    if False:",
        (f"{SAVED}::test_the_program_writes_to_the_operand_of_a_body",),
    ),
)
