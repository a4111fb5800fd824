"""How ops are put in, and what is written out before.

The order of splices, layouts, gradients of fakes, private writes, respelled attention, cut sites.
"""

from __future__ import annotations

from tests.mutants.mutant import Mutant

REWRITE = "lowering/rewrite.py"
STRIDES = "lowering/strides.py"
IN_PLACE = "lowering/in_place.py"
SAFE = "lowering/safe_spelling.py"
CUT = "lowering/cut.py"
INLINED = "tests/test_core_inline.py::test_attention_inside_is_found_and_computes_the_same"
PLANNED = "tests/test_core_plan.py"
LAYOUTS = "tests/test_core_layouts.py"
SEEN = "tests/test_core_in_place.py::test_a_write_that_is_seen_stays"
HIDDEN = "tests/test_core_safe_spelling.py::test_hidden_weights_are_the_same_weights"
MASKS = "tests/test_attention_masks.py"
WRITES = "tests/test_certificates_writes.py"

MUTANTS = (
    Mutant(
        "the-last-op-goes-in-first",
        REWRITE,
        "    waiting = sorted(candidates, key=lambda c: order(c.place))",
        "    waiting = sorted(candidates, key=lambda c: order(c.place))[::-1]",
        (f"{PLANNED}::test_a_chain_of_residuals",),
    ),
    Mutant(
        "what-was-replaced-is-read",
        REWRITE,
        "        return fx.Proxy(replaced.get(node, node), tracer)",
        "        return fx.Proxy(node, tracer)",
        (f"{PLANNED}::test_a_chain_of_residuals",),
    ),
    Mutant(
        "layouts-are-not-restored",
        REWRITE,
        "    return way(proxy)",
        "    return proxy",
        (f"{LAYOUTS}::test_attention_keeps_the_layout_that_a_view_downstream_needs",),
    ),
    Mutant(
        "layouts-are-restored-the-other-way",
        STRIDES,
        "    inverse = [order.index(d) for d in range(len(order))]",
        "    inverse = order",
        ("tests/test_result_layouts.py::test_a_copy_lies_in_the_order_asked_for",),
    ),
    Mutant(
        "one-element-is-as-far-as-anything",
        STRIDES,
        "    if shapes.equal(wanted, had):",
        "    if same_elements(sizes, wanted, had):",
        ("tests/test_result_layouts.py",),
    ),
    Mutant(
        "dimensions-of-one-element-lie-as-they-may",
        STRIDES,
        "    if 1 not in numbers:",
        "    if True:",
        ("tests/test_result_layouts.py",),
    ),
    Mutant(
        "new-values-want-no-gradient",
        REWRITE,
        "with_grad(result) if differentiable and read else result",
        "result",
        ("tests/test_higher_order_bodies.py::test_a_region_that_is_compiled_once",),
    ),
    Mutant(
        "a-mask-reads-what-was-written-since",
        REWRITE,
        "            return source.made(lambda node: there(node).clone())",
        "            return source.made(leaf)",
        (f"{MASKS}::test_the_length_of_a_cache_is_read_before_it_grows",),
    ),
    Mutant(
        "k-is-turned-as-q",
        REWRITE,
        "        found[rule.second] = operands(second, leaf)[rule.separate]",
        "        found[rule.second] = found[rule.first]",
        (f"{PLANNED}::test_one_call_for_q_and_k_is_one_site",),
    ),
    Mutant(
        "what-decodes-forgets-its-mask",
        REWRITE,
        "        arguments = call.masked\n",
        "        pass\n",
        (f"{MASKS}::test_decoding_on_a_cpu_reads_k_and_v_unexpanded",),
    ),
    Mutant(
        "results-are-not-turned-back",
        "lowering/realise.py",
        "    return [first.permute(match.view) if match.view else first, *others]",
        "    return [first, *others]",
        ("tests/test_safety_attention.py::test_is_found",),
    ),
    Mutant(
        "operands-are-not-turned-back",
        "lowering/match.py",
        "    inverse = tuple(dims.index(d) - term.rank for d in range(-term.rank, 0))",
        "    inverse = dims",
        ("tests/test_safety_attention.py::test_is_found",),
        equal="the permutations that spellings contain exchange two dimensions: each is its own"
        " inverse",
    ),
    Mutant(
        "private-writes-without-grad",
        IN_PLACE,
        "    if len(targets) != 1 or node in effects.without_grad:",
        "    if len(targets) != 1:",
        (SEEN,),
    ),
    Mutant(
        "inputs-are-private",
        IN_PLACE,
        "    if not before or any(not is_call(n) or is_opaque_call(n) for n in before):",
        "    if not before or any(is_opaque_call(n) for n in before):",
        (SEEN,),
    ),
    Mutant(
        "views-that-are-read-later-are-private",
        IN_PLACE,
        "        if old is not target and any(old in values_read(user) for user in later):",
        "        if False:",
        (SEEN,),
    ),
    Mutant(
        "a-write-keeps-no-dtype",
        IN_PLACE,
        "    alike = made.dtype == known.dtype and shapes.equal(",
        "    alike = shapes.equal(",
        (SEEN,),
    ),
    Mutant(
        "all-results-of-a-composite-are-its-first",
        "lowering/inline.py",
        "        if isinstance(result := results[index], fx.Node):",
        "        if isinstance(result := results[0], fx.Node):",
        (f"{INLINED}[weights are returned]",),
    ),
    Mutant(
        "a-permuted-key-is-left",
        SAFE,
        "    if not dims or dims[-2] < dims[-1] or path.swaps_last(dims):",
        "    if True:",
        ("tests/test_core_safe_spelling.py::test_it_is_respelled_and_nothing_else_changes",),
    ),
    Mutant(
        "weights-are-left-in-sight",
        SAFE,
        "    if not is_misread(product):",
        "    if True:",
        (HIDDEN,),
    ),
    Mutant(
        "any-fill-is-minus-infinity",
        SAFE,
        "    if any(path.constant(fill) not in FILLS for fill in fills):",
        "    if False:",
        (HIDDEN,),
    ),
    Mutant(
        "any-order-of-heads-is-known",
        SAFE,
        "    return dims is not None and dims != HEADS_FIRST and dims != tuple(range(len(dims)))",
        "    return False",
        (HIDDEN,),
    ),
    Mutant(
        "a-softmax-over-any-dimension-is-known",
        SAFE,
        "    if not path.is_last(dim, value(weights).dim()):",
        "    if False:",
        (HIDDEN,),
    ),
    Mutant(
        "a-certificate-writes-to-its-inputs",
        CUT,
        '                taken[node] = graph.call_method("clone", (made,))',
        "                taken[node] = made",
        (WRITES,),
    ),
    Mutant(
        "a-certificate-parts-what-shares-memory",
        CUT,
        "                if several.setdefault(storage, node) is not node:",
        "                if False:",
        (f"{WRITES}::test_memory_that_two_inputs_share",),
    ),
    Mutant(
        "a-certificate-writes-random-numbers",
        CUT,
        '            if is_opaque_call(writer) or called_name(writer).rstrip("_") in RANDOM:',
        "            if is_opaque_call(writer):",
        (f"{WRITES}::test_random_numbers_that_are_written_in_between",),
    ),
)
