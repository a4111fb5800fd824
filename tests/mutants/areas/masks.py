"""What a mask means.

Off by one: bounds, sizes, offsets, ranges. And what is left out when it is read or proven.

Longer than 300 lines because the mutants are a list, each of some lines.
"""

from __future__ import annotations

from tests.mutants.mutant import Mutant

BOUNDS = "lowering/mask/bounds.py"
EQUALITIES = "lowering/mask/equalities.py"
FACTS = "lowering/mask/facts.py"
NEVER_EMPTY = "lowering/mask/never_empty.py"
READER = "lowering/mask/reader.py"
RULE = "patterns/_attention_mask.py"
BLOCKS = "patterns/_attention_blocks.py"
ON_CPU = "patterns/_attention_on_cpu.py"
FACTORS = "tests/test_mask_factors.py"
ONE_OFFSET = f"{FACTORS}::test_a_product_has_one_offset"
PADDED = f"{FACTORS}::test_a_padding_mask_is_its_tensor"
EMPTY = f"{FACTORS}::test_a_mask_that_leaves_a_query_nothing_is_not_called_safe"
MEANING = "tests/test_mask_meaning.py"
SPELLED = f"{MEANING}::test_masks_as_people_spell_them"
LEFT_OUT = "tests/test_attention_masks.py"
ARGUMENTS = "tests/test_mask_facts.py"

MUTANTS = (
    Mutant(
        "a-query-sees-one-key-more",
        BOUNDS,
        "        difference = difference + 1\n",
        "        pass\n",
        (f"{FACTORS}::test_a_window_stands_where_the_causal_bound_does",),
    ),
    Mutant(
        "the-last-query-is-not-asked",
        BOUNDS,
        "largest = rest + sum(c * (n - 1) for c",
        "largest = rest + sum(c * (n - 2) for c",
        (f"{MEANING}::test_a_mask_that_differs_in_one_element_is_not_causal", ONE_OFFSET, SPELLED),
    ),
    Mutant(
        "a-bound-always-holds",
        BOUNDS,
        "    always = bool(sympy.expand(largest).is_nonpositive)",
        "    always = not bool(sympy.expand(largest).is_positive)",
        (f"{FACTORS}::test_offsets_may_be_sizes",),
    ),
    Mutant(
        "a-single-query-has-no-position",
        BOUNDS,
        "    if rows == 1 and q == 0:",
        "    if False:",
        (ONE_OFFSET,),
    ),
    Mutant(
        "a-window-one-shorter",
        BOUNDS,
        "        size = sympy.expand(lower.limit + value + 1)",
        "        size = sympy.expand(lower.limit + value)",
        (f"{FACTORS}::test_a_window_stands_where_the_causal_bound_does",),
    ),
    Mutant(
        "both-sides-one-shorter",
        BOUNDS,
        "            size = sympy.expand(upper.limit - middle + 1)",
        "            size = sympy.expand(upper.limit - middle)",
        (ONE_OFFSET,),
    ),
    Mutant(
        "a-prefix-one-shorter",
        BOUNDS,
        "amount(first.limit + 1, reads)",
        "amount(first.limit, reads)",
        (ONE_OFFSET,),
    ),
    Mutant(
        "the-loosest-bound-counts",
        BOUNDS,
        "        if not any((new.limit - old.limit).is_nonnegative for old in kept):\n"
        "            kept = [old for old in kept if not (old.limit - new.limit).is_nonnegative]",
        "        if not any((old.limit - new.limit).is_nonnegative for old in kept):\n"
        "            kept = [old for old in kept if not (new.limit - old.limit).is_nonnegative]",
        (f"{ARGUMENTS}::test_the_tightest_of_two_bounds_counts",),
    ),
    Mutant(
        "a-first-chunk-is-all",
        EQUALITIES,
        "    first = (size - columns, size - rows - offset.known, offset.known)",
        "    first = (size - columns, offset.known)",
        (ONE_OFFSET,),
    ),
    Mutant(
        "segments-of-another-row",
        EQUALITIES,
        "        if one.args[:-1] == other.args[:-1] and offset is not None:",
        "        if offset is not None:",
        (f"{ARGUMENTS}::test_segments_of_two_rows_are_no_segments",),
    ),
    Mutant(
        "a-query-stands-one-further-back",
        EQUALITIES,
        "    return amount(position - QUERY, reads)",
        "    return amount(position - QUERY - 1, reads)",
        (ONE_OFFSET,),
    ),
    Mutant(
        "all-entries-read-the-first-row",
        EQUALITIES,
        "leading[0] == BATCH if leading in",
        "leading[0] != BATCH if leading in",
        (PADDED,),
    ),
    Mutant(
        "any-number-is-padding",
        "lowering/mask/conjunction.py",
        "isinstance(part, sympy.Ne) and part.rhs == 0 else None",
        "isinstance(part, sympy.Ne) else None",
        (f"{ARGUMENTS}::test_padding_is_what_is_not_zero",),
    ),
    Mutant(
        "a-read-counts-twice",
        "lowering/mask/factors.py",
        "    known = sympy.expand(value - sum(found))",
        "    known = sympy.expand(value.xreplace(dict.fromkeys(found, 0)))",
        (ONE_OFFSET,),
    ),
    Mutant(
        "ahead-by-one",
        FACTS,
        "            return factor.offset.plus(factor.size - 1)",
        "            return factor.offset.plus(factor.size)",
        (ARGUMENTS,),
    ),
    Mutant(
        "the-first-query-stands-one-further-on",
        FACTS,
        '        return {"start": int(first.known)}\n',
        '        return {"start": int(first.known) + 1}\n',
        (ARGUMENTS,),
    ),
    Mutant(
        "a-causal-bound-of-another-position",
        FACTS,
        "    if isinstance(factor, Causal) and factor.offset == first:",
        "    if isinstance(factor, Causal):",
        (ARGUMENTS,),
        equal="the position is that of the first causal bound; of a second one the word is taken",
    ),
    Mutant(
        "a-window-of-another-position",
        FACTS,
        'yield from size("window", factor.size + first.known - factor.offset.known)',
        'yield from size("window", factor.size)',
        (ARGUMENTS,),
    ),
    Mutant(
        "a-chunk-of-another-position",
        FACTS,
        "    elif isinstance(factor, Chunk) and factor.offset == first:",
        "    elif isinstance(factor, Chunk):",
        (ARGUMENTS,),
    ),
    Mutant(
        "segments-of-another-position",
        FACTS,
        "    elif isinstance(factor, Segments) and factor.offset == first:",
        "    elif isinstance(factor, Segments):",
        (ARGUMENTS,),
    ),
    Mutant(
        "every-entry-has-its-own-row",
        FACTS,
        "    return view if by_batch else lambda x: view(x)[:1]",
        "    return view",
        (ARGUMENTS,),
    ),
    Mutant(
        "the-rest-of-a-mask-is-forgotten",
        FACTS,
        "        whole = whole and known\n",
        "",
        (ARGUMENTS,),
    ),
    Mutant(
        "the-last-query-has-a-key",
        NEVER_EMPTY,
        "    inside = sympy.expand(columns - rows - offset.known).is_nonnegative",
        "    inside = sympy.expand(columns - rows).is_nonnegative",
        (EMPTY,),
    ),
    Mutant(
        "what-is-read-is-not-negative",
        NEVER_EMPTY,
        "    return offset.read is None and bool(offset.known.is_nonnegative)",
        "    return bool(offset.known.is_nonnegative)",
        (ONE_OFFSET,),
    ),
    Mutant(
        "a-window-may-be-empty",
        NEVER_EMPTY,
        "        return bool(factor.size.is_positive)",
        "        return True",
        (EMPTY,),
    ),
    Mutant(
        "all-calls-of-a-body-agree",
        "lowering/mask/proof.py",
        "            same = all(other == found[0] for other in found)",
        "            same = True",
        ("tests/test_higher_order_masks.py::test_calls_of_one_body_have_to_agree",),
    ),
    Mutant(
        "what-hides-is-what-shows",
        "lowering/mask/meaning.py",
        "by_index(~condition if hides else condition, reader)",
        "by_index(condition, reader)",
        (f"{MEANING}::test_a_mask_that_hides_is_read_the_other_way_round",),
    ),
    Mutant(
        "small-numbers-hide",
        "lowering/mask/meaning.py",
        "    if any(number != 0.0 and number not in hiding for number, _ in element.choices):",
        "    if False:",
        (f"{MEANING}::test_what_hides_only_a_little_is_no_mask",),
    ),
    Mutant(
        "numbers-of-sequences-may-come-round",
        "lowering/mask/runs.py",
        "    wide = all(value(n).dtype is torch.int64 for n in (node, differences, found))",
        "    wide = True",
        ("tests/test_mask_packed.py::test_what_only_looks_like_it_is_not_causal",),
    ),
    Mutant(
        "steps-of-any-size",
        "lowering/mask/runs.py",
        "    step = unequal.args[1:] == (1,) and not unequal.kwargs",
        "    step = True",
        ("tests/test_mask_packed.py::test_what_only_looks_like_it_is_not_causal",),
    ),
    Mutant(
        "all-reads-are-of-one-time",
        READER,
        "            when = self.effects.version(node, reader)",
        "            when = 0",
        ("tests/test_mask_reads.py::test_a_read_is_that_of_its_time",),
    ),
    Mutant(
        "a-written-mask-is-read",
        READER,
        "            if node in self.effects.volatile and reader is None:",
        "            if False:",
        ("tests/test_mask_reads.py::test_a_mask_that_is_written_to_is_given_up",),
    ),
    Mutant(
        "a-shape-that-changes-is-read",
        READER,
        "        if node in self.effects.volatile and is_reshaped(self.effects, node):",
        "        if False:",
        ("tests/test_mask_reads.py::test_what_changes_its_shape_is_not_read",),
    ),
    Mutant(
        "integers-do-not-wrap",
        "lowering/mask/elements.py",
        "    if target not in WIDE or (target.itemsize < source.itemsize and has_reads(value)):",
        "    if False:",
        (f"{MEANING}::test_unsigned_numbers_wrap_around",),
    ),
    Mutant(
        "a-running-sum-begins-at-nothing",
        "lowering/mask/along.py",
        "        return elements.exact(element * (indices[place] + 1), fake.dtype)",
        "        return elements.exact(element * indices[place], fake.dtype)",
        (SPELLED, "tests/test_mask_facts.py::test_a_running_sum_has_its_first_element"),
    ),
    Mutant(
        "weak-fills-hide",
        RULE,
        "    if fill is None or facts.hides_with is not None:\n        return True\n",
        "    return True\n",
        (f"{LEFT_OUT}::test_what_hides_only_a_little_stays",),
    ),
    Mutant(
        "a-fill-passes-gradients-on",
        RULE,
        "    if fill is not None and facts.hides_with is not None and is_diff",
        "    if False and is_diff",
        (f"{LEFT_OUT}::test_gradients_of_a_query_that_sees_nothing[always-added-None]",),
    ),
    Mutant(
        "facts-stand-beside-finite-numbers",
        RULE,
        "        exact = facts.hides_with in (None, -math.inf)",
        "        exact = True",
        (f"{ARGUMENTS}::test_nothing_stands_beside_a_mask_that_adds_finite_numbers",),
    ),
    Mutant(
        "queries-that-start-later-are-respelled",
        ON_CPU,
        'if arguments["start"] != 0 or any(arguments.get(name) is not None for name in UNKNOWN):',
        "if any(arguments.get(name) is not None for name in UNKNOWN):",
        (f"{ARGUMENTS}::test_queries_that_stand_later_are_not_respelled",),
    ),
    Mutant(
        "a-block-sees-one-key-less",
        BLOCKS,
        "seen = seen.triu(ahead - block.window + 1)",
        "seen = seen.triu(ahead - block.window + 2)",
        (f"{ARGUMENTS}::test_blocks_of_a_window",),
    ),
    Mutant(
        "a-block-begins-one-key-late",
        BLOCKS,
        "first = min(begin + size, length), max(0, begin - window + 1)",
        "first = min(begin + size, length), max(0, begin - window + 2)",
        (f"{ARGUMENTS}::test_blocks_of_a_window",),
    ),
    Mutant(
        "chunks-overlap",
        BLOCKS,
        "yield Block(begin, end, begin, end)",
        "yield Block(begin, end, max(begin - 1, 0), end)",
        (f"{ARGUMENTS}::test_blocks_of_a_chunk",),
    ),
    Mutant(
        "nan-is-harmless",
        ON_CPU,
        "return math.isfinite(product) and product <= LARGEST",
        "return not product > LARGEST",
        ("tests/test_not_finite_respelled.py::test_what_is_harmless",),
    ),
    Mutant(
        "the-gradient-of-a-result-is-always-harmless",
        ON_CPU,
        "    parts = cut(arguments, dout)",
        "    parts = cut(arguments)",
        ("tests/test_not_finite_respelled.py::test_one_number",),
    ),
    Mutant(
        "false-is-true",
        "lowering/mask/elements.py",
        "        return sympy.true if value else sympy.false",
        "        return sympy.true",
        ("tests/test_mask_literals.py",),
    ),
    Mutant(
        "no-scale-is-below-zero",
        "patterns/_attention_on_cpu.py",
        '    if arguments["is_causal"] and not is_above_0(arguments["scale"]):',
        "    if False:",
        ("tests/test_attention_nan.py::test_a_scale_that_is_not_positive_hides_no_less",),
    ),
    Mutant(
        "a-call-has-any-scale",
        "patterns/attention.py",
        "(math.isfinite(scale) and (scale > 0 or not causal))",
        "True",
        ("tests/test_attention_nan.py::test_a_scale_that_torch_gives_no_product_for",),
    ),
)
