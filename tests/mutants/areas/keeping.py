"""What waits for the backward, and what it is when that runs.

Copies that are left out, views that are saved, results that share memory, checkpoints that count.
"""

from __future__ import annotations

from tests.mutants.mutant import Mutant

MUTANTS = (
    Mutant(
        "every-result-has-a-gradient",
        "lowering/autograd.py",
        "    if signature.results == 1:\n        return ()",
        "    if True:\n        return ()",
        ("tests/test_results_without_gradient.py",),
    ),
    Mutant(
        "equal-results-share-memory",
        "lowering/separate_results.py",
        "            if not returned.isdisjoint(storage(part)):",
        "            if False:",
        ("tests/test_separate_results.py",),
    ),
    Mutant(
        "an-infinite-slope-is-multiplied",
        "patterns/_cross_entropy_math.py",
        "    nothing = weight - weight\n",
        "    nothing = 0.0 * torch.ones_like(weight)\n",
        ("tests/test_cross_entropy_gradients.py",),
    ),
    Mutant(
        "ignored-rows-have-a-part",
        "patterns/_cross_entropy_math.py",
        "    return torch.where(counted, factor, 0.0), torch.where(counted.sum() > 0, factor, 0.0)",
        "    return factor.expand(labels.shape), factor",
        ("tests/test_cross_entropy_gradients.py",),
    ),
    Mutant(
        "sizes-are-checked-under-rules-in-python",
        "lowering/meta.py",
        "    with _disable_current_modes(), no_python_dispatcher():",
        "    with unset_fake_temporarily():",
        ("tests/test_cross_entropy_gradients.py",),
    ),
    Mutant(
        "a-logarithm-is-never-lost",
        "patterns/_attention_math.py",
        "    if rest is None and math.isfinite(low):",
        "    if False:",
        ("tests/test_attention_nan.py",),
    ),
    Mutant(
        "random-calls-are-equal",
        "lowering/separate_results.py",
        '    if node.op != "call_function" or is_random(node.target):',
        '    if node.op != "call_function":',
        ("tests/test_separate_results.py",),
    ),
    Mutant(
        "nobody-writes-after-the-return",
        "lowering/kept_copies.py",
        "    if not products or more or reader.outside is not None or not reader.trains:",
        "    if True:",
        ("tests/test_written_after_return.py",),
    ),
    Mutant(
        "the-original-keeps-nothing",
        "lowering/kept_copies.py",
        "    return frozenset(node for node in read if node not in known)",
        "    return frozenset(read)",
        ("tests/test_written_after_return.py::test_no_more_is_copied_than_has_to_be",),
    ),
    Mutant(
        "a-view-of-an-input-is-saved",
        "lowering/recompute.py",
        '            view.meta.setdefault("recompute", CheckpointPolicy.MUST_RECOMPUTE)',
        "            pass",
        ("tests/test_written_after_return.py::test_a_write_to_what_a_view_is_of_is_seen",),
    ),
    Mutant(
        "a-sum-is-made-again-from-inputs",
        "lowering/recompute.py",
        "    if made_again_from_inputs(record, node):",
        "    if False:",
        ("tests/test_written_after_return.py", "tests/test_gradient_graphs.py"),
    ),
    Mutant(
        "a-checkpoint-counts-what-we-ask",
        "lowering/independent_results.py",
        "    with without_modes(), torch.enable_grad(), saved_tensors_hooks(itself, itself):",
        "    with without_modes(), torch.enable_grad():",
        ("tests/test_ops_checkpoint.py",),
    ),
    Mutant(
        "the-end-of-a-checkpoint-is-a-failure",
        "lowering/failure.py",
        " or stops_a_checkpoint(error):",
        ":",
        ("tests/test_ops_checkpoint.py",),
    ),
    Mutant(
        "what-is-checked-has-a-gradient",
        "lowering/checked.py",
        "        ctx.mark_non_differentiable(*(own[i] for i in apart))\n",
        "",
        ("tests/test_results_without_gradient.py",),
    ),
)
