"""Kernel or reference.

The constants of the gate and of the static rule, and what evidence counts.
"""

from __future__ import annotations

from tests.mutants.mutant import Mutant

GATE = "lowering/gate.py"
RULE = "lowering/static_rule.py"
EVIDENCE = "lowering/evidence.py"
GATED = "tests/test_gate.py"
ESTIMATED = "tests/test_static_rule.py"
STORED = "tests/test_evidence.py"

MUTANTS = (
    Mutant(
        "older-gpus-are-taken",
        GATE,
        "MINIMUM_CAPABILITY = (8, 0)",
        "MINIMUM_CAPABILITY = (7, 0)",
        (f"{GATED}::test_an_old_gpu_has_no_kernel",),
    ),
    Mutant(
        "ops-go-in-on-a-cpu",
        GATE,
        "        return Verdict(chosen, put_in=chosen.op_in_graph)",
        "        return Verdict(chosen, put_in=True)",
        (f"{GATED}::test_a_cpu_keeps_the_original_ops",),
    ),
    Mutant(
        "never-is-sometimes",
        GATE,
        '        return Verdict(chosen, put_in=False)\n    if kernels == "auto"',
        '        return Verdict(chosen, put_in=True)\n    if kernels == "auto"',
        (f"{GATED}::test_never_looks_at_nothing_else",),
    ),
    Mutant(
        "what-a-kernel-refuses-is-launched",
        GATE,
        "    missing = changing(call) or unavailable(device) or refused(call, device)\n"
        "    if missing is not None:\n        put_in",
        "    missing = changing(call) or unavailable(device)\n"
        "    if missing is not None:\n        put_in",
        (f"{GATED}::test_what_the_kernel_refuses_falls_back",),
    ),
    Mutant(
        "a-number-that-may-change-is-fixed",
        GATE,
        '        put_in = kernels == "always" and not call.open\n',
        '        put_in = kernels == "always"\n',
        ("tests/test_core_layouts.py::test_an_epsilon_that_is_a_graph_input_stays_one",),
    ),
    Mutant(
        "guards-are-added",
        "lowering/guards.py",
        "        if not environment._suppress_guards_tls():",
        "        if False:",
        ("tests/test_new_guards.py::test_a_question_is_answered_or_refused",),
    ),
    Mutant(
        "new-code-is-not-tried",
        "lowering/verdicts.py",
        "    if not (verdict.put_in or respelled) or not is_dynamic(candidate):",
        "    if True:",
        ("tests/test_new_guards.py::test_the_new_code_is_tried_before_it_goes_in",),
    ),
    Mutant(
        "a-new-guard-is-a-failure",
        "lowering/failure.py",
        "    if isinstance(error, NewGuard):",
        "    if False:",
        ("tests/test_user_limits.py::test_a_limit_of_a_dynamic_size_declines",),
    ),
    Mutant(
        "the-evidence-is-not-heard",
        GATE,
        '    if wanted == "reference":',
        "    if False:",
        (f"{GATED}::test_a_gpu_leaves_a_lone_norm_to_inductor",),
    ),
    Mutant(
        "a-tie-is-ours",
        RULE,
        "CLEAR = 0.8",
        "CLEAR = 1.0",
        (f"{ESTIMATED}::test_a_gain_of_a_fifth_is_clear",),
    ),
    Mutant(
        "a-fifth-is-not-enough",
        RULE,
        "CLEAR = 0.8",
        "CLEAR = 0.4",
        (f"{ESTIMATED}::test_a_gain_of_a_fifth_is_clear",),
    ),
    Mutant(
        "small-values-are-large",
        RULE,
        "LARGE = 256 * 2**20",
        "LARGE = 2**20",
        (f"{ESTIMATED}::test_a_gain_of_a_fifth_is_clear",),
    ),
    Mutant(
        "twice-the-time-is-as-good",
        RULE,
        "SAME = 1.05",
        "SAME = 2.1",
        (f"{ESTIMATED}::test_of_ways_that_are_as_good_the_one_with_fewer_ops",),
    ),
    Mutant(
        "causal-halves-nothing",
        "patterns/_attention_work.py",
        "    growing = max(0, min(queries, most - first))  # queries that see fewer than the most",
        "    growing = 0",
        (f"{ESTIMATED}::test_pairs_of_queries_and_keys",),
    ),
    Mutant(
        "faster-by-less-than-the-spread",
        EVIDENCE,
        "    winning = [w for w in times if w != INDUCTOR and times[w].beats(times[INDUCTOR])]",
        "    winning = [\n        w for w in times if w != INDUCTOR and times[w].median <"
        " times[INDUCTOR].median\n    ]",
        (f"{STORED}::test_the_fastest_way_that_wins_clearly",),
    ),
    Mutant(
        "an-op-goes-in-where-it-loses",
        EVIDENCE,
        "        if way != INDUCTOR and not any(t[INDUCTOR].beats(t[way]) for t in times):",
        "        if way != INDUCTOR:",
        (f"{STORED}::test_a_range_in_which_the_op_loses_somewhere_is_left_to_inductor",),
    ),
    Mutant(
        "old-measurements-replace-later-ones",
        EVIDENCE,
        'return worth(new) > worth(old) if new.origin == "user" else worth(new) >= worth(old)',
        "return True",
        (f"{STORED}::test_a_later_measurement_of_the_user_replaces_the_shipped_one",),
    ),
    Mutant(
        "measurements-of-other-ways-count",
        EVIDENCE,
        "    known = [f for f in found if set(f.entry.times) == set(ways) and f.entry.chosen in"
        " ways]",
        "    known = list(found)",
        (f"{STORED}::test_entries_of_other_ways_do_not_count",),
    ),
    Mutant(
        "ranges-that-touch-do-not-meet",
        EVIDENCE,
        "        least <= other.ranges[name][1] and other.ranges[name][0] <= most",
        "        least < other.ranges[name][1] and other.ranges[name][0] < most",
        (f"{STORED}::test_ranges_that_share_one_size_meet",),
    ),
    Mutant(
        "many-queries-are-decoded",
        "patterns/_attention_decode.py",
        "MOST_QUERIES = 16",
        "MOST_QUERIES = 64",
        ("tests/test_attention_steps.py::test_more_queries_than_a_tile_has_rows_are_no_decoding",),
    ),
    Mutant(
        "parts-of-few-keys",
        "patterns/_attention_decode.py",
        "FEWEST_KEYS = 256",
        "FEWEST_KEYS = 128",
        ("tests/test_attention_steps.py::test_number_of_parts",),
    ),
)
