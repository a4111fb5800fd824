"""The side conditions of identities.

A rule that applies where its equation does not hold: to values that round differently, to other
dimensions, to another order.
"""

from __future__ import annotations

from tests.mutants.mutant import Mutant

CASTS = "lowering/identities.py"
NUMBERS = "lowering/identities_arithmetic.py"
MOVES = "lowering/identities_layout.py"
OTHER = "tests/test_identity_conditions.py::test_other_values_are_other_terms[{}]"
SAME = "tests/test_identity_conditions.py::test_equal_values_are_one_term[{}]"


def other(name: str) -> tuple[str, ...]:
    return (OTHER.format(name),)


def same(name: str) -> tuple[str, ...]:
    return (SAME.format(name),)


MUTANTS = (
    Mutant(
        "narrowing-to-float32-and-back",
        CASTS,
        'if inner.op == "cast" and dtype in LOW_PRECISION and inner.dtype == torch.float32:',
        'if inner.op == "cast" and inner.dtype == torch.float32:',
        other("narrowed_to_float32_and_back"),
    ),
    Mutant(
        "through-another-low-precision",
        CASTS,
        'if inner.op == "cast" and dtype in LOW_PRECISION and inner.dtype == torch.float32:',
        'if inner.op == "cast" and dtype in LOW_PRECISION:',
        other("through_another_low_precision"),
    ),
    Mutant(
        "integers-are-negated-after-their-cast",
        CASTS,
        "    if inner.dtype is None or not (dtype.is_floating_point and"
        " inner.dtype.is_floating_point):",
        "    if inner.dtype is None:",
        other("negated_bytes"),
        equal="a negation of whole numbers is no term, and moved ones may be cast before or after",
    ),
    Mutant(
        "an-expansion-goes-though-the-result-is-smaller",
        CASTS,
        "        if not only_ones or rest != shape:",
        "        if not only_ones:",
        other("expanded_rows_times_a_column"),
    ),
    Mutant(
        "a-product-of-two-is-a-square",
        NUMBERS,
        "if args[0] is args[1] else None",
        "if args[0].shape == args[1].shape else None",
        other("product_of_two"),
    ),
    Mutant(
        "fourth-powers-are-squares",
        NUMBERS,
        'names = {2.0: "square", 0.5',
        'names = {2.0: "square", 4.0: "square", 0.5',
        other("fourth_power"),
    ),
    Mutant(
        "the-square-of-a-root-in-low-precision",
        NUMBERS,
        'if inner.op == "sqrt" and dtype == torch.float32 else None',
        'if inner.op == "sqrt" else None',
        other("square_of_a_rounded_root"),
    ),
    Mutant(
        "chained-powers-in-low-precision",
        NUMBERS,
        "if dtype != torch.float32 or base.dtype is None or product.dtype is None:",
        "if base.dtype is None or product.dtype is None:",
        other("rounded_power"),
    ),
    Mutant(
        "a-logistic-in-low-precision",
        NUMBERS,
        '    if args[0].op != "add" or dtype != torch.float32:',
        '    if args[0].op != "add":',
        other("rounded_logistic"),
    ),
    Mutant(
        "a-logistic-of-any-number",
        NUMBERS,
        'if number_of(one) == 1.0 and exponential.op == "exp"',
        'if number_of(one) is not None and exponential.op == "exp"',
        other("logistic_of_two"),
    ),
    Mutant(
        "a-quotient-in-low-precision",
        NUMBERS,
        "    if dtype != torch.float32 or y.dtype is None:",
        "    if y.dtype is None:",
        other("rounded_quotient"),
    ),
    Mutant(
        "an-inverse-root-in-low-precision",
        NUMBERS,
        '    if args[0].op != "sqrt" or dtype != torch.float32:',
        '    if args[0].op != "sqrt":',
        other("rounded_inverse_root"),
    ),
    Mutant(
        "a-number-is-added-for-subtracted",
        NUMBERS,
        "t.number(-number)), (), dtype, shape)",
        "t.number(number)), (), dtype, shape)",
        other("number_subtracted"),
    ),
    Mutant(
        "differences-are-turned-around",
        NUMBERS,
        'return build(t, "sub", (x, y.args[0]), (), dtype, shape)',
        'return build(t, "sub", (y.args[0], x), (), dtype, shape)',
        other("difference_the_other_way"),
    ),
    Mutant(
        "a-sign-is-lost-in-a-product",
        NUMBERS,
        '            return build(t, "neg", (product,), (), dtype, shape)',
        "            return product",
        other("product_of_a_negative"),
    ),
    Mutant(
        "any-share-of-a-sum-is-the-mean",
        NUMBERS,
        "        if abs(scale * count - 1.0) < 1e-9:",
        "        if True:",
        other("share_of_a_sum"),
    ),
    Mutant(
        "a-rounded-mean",
        NUMBERS,
        "        if dtype == torch.bfloat16 and abs(math.frexp(scale)[0]) != 0.5:",
        "        if False:",
        other("rounded_mean"),
    ),
    Mutant(
        "permutations-in-the-other-order",
        MOVES,
        "tuple(first[d] for d in full_permutation(attrs, inner.rank))",
        "tuple(full_permutation(attrs, inner.rank)[d] for d in first)",
        same("permuted_twice"),
    ),
    Mutant(
        "a-repeat-stays-where-it-was",
        MOVES,
        "    moved = dims.index(dim) - inner.rank",
        "    moved = dim",
        same("permuted_repeat"),
    ),
    Mutant(
        "tiled-heads-are-repeated-heads",
        MOVES,
        "    if not shapes.equal(merged, shape):",
        "    if False:",
        other("tiled_and_repeated"),
        equal="where the sizes do not fit the dimension that grew comes first, and that is refused",
    ),
    Mutant(
        "the-first-dimension-may-have-grown",
        MOVES,
        "    if len(grown) != 1 or grown[0] == 0:",
        "    if len(grown) != 1:",
        other("tiled_and_repeated"),
        equal="the merged sizes do not fit then: the last dimension has grown in them",
    ),
    Mutant(
        "pairs-are-halves",
        MOVES,
        "    if inner.attrs == (-1,):",
        "    if inner.attrs == (-2,):",
        same("interleaved_with_itself"),
    ),
    Mutant(
        "a-slice-begins-at-the-start",
        MOVES,
        "    whole = start == 0 and step == 1 and shapes",
        "    whole = step == 1 and shapes",
        other("all_but_the_first"),
    ),
    Mutant(
        "a-slice-takes-every-element",
        MOVES,
        "    whole = start == 0 and step == 1 and shapes",
        "    whole = start == 0 and shapes",
        other("every_second"),
    ),
    Mutant(
        "a-part-of-a-cat-takes-every-element",
        MOVES,
        '    if inner.op != "cat" or inner.attrs != (dim,) or step != 1:',
        '    if inner.op != "cat" or inner.attrs != (dim,):',
        other("every_second_of_a_cat"),
    ),
    Mutant(
        "a-part-of-a-cat-ends-with-its-operand",
        MOVES,
        "        if shapes.same(begin, start) and shapes.same(end, stop):",
        "        if shapes.same(begin, start):",
        other("a_part_of_a_cat"),
    ),
    Mutant(
        "pieces-are-joined-in-any-order",
        MOVES,
        "        if where != dim or step != 1 or not shapes.same(start, end):",
        "        if where != dim or step != 1:",
        other("overlapping_pieces"),
    ),
    Mutant(
        "pieces-are-joined-along-any-dimension",
        MOVES,
        "        if where != dim or step != 1 or not shapes.same(start, end):",
        "        if step != 1 or not shapes.same(start, end):",
        other("halves_below_each_other"),
    ),
    Mutant(
        "the-last-piece-may-be-missing",
        MOVES,
        "    return source if shapes.same(end, source.shape[dim]) else None",
        "    return source",
        other("first_halves"),
    ),
    Mutant(
        "interleaved-with-another",
        MOVES,
        "    if len(args) != 2 or args[0] is not args[1]:",
        "    if len(args) != 2:",
        other("interleaved_with_another"),
    ),
    Mutant(
        "splits-are-confused",
        MOVES,
        "    if dim == -1:\n        return slice_(t, source, -1, index, source.shape[-1], width)",
        "    if dim == -2:\n        return slice_(t, source, -1, index, source.shape[-1], width)",
        same("first_of_each_pair"),
    ),
)
