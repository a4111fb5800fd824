"""Backward: what is saved, and what is made of it.

Saved tensors exchanged, terms of a gradient dropped, gradients where there is none.
"""

from __future__ import annotations

from tests.mutants.mutant import Mutant

AUTOGRAD = "lowering/autograd.py"
NORMS = "patterns/_norm_gradient.py"
GATES = "patterns/_gate_gradient.py"
ROTARY = "patterns/_rotary_gradient.py"
ATTENTION = "patterns/_attention_gradient.py"
SCORES = "patterns/_attention_math.py"
LOSS = "patterns/_cross_entropy_math.py"
LINEAR = "patterns/_linear_cross_entropy_ops.py"
BY_HAND = "tests/test_gradient_references.py"
DERIVED = "tests/test_ops_autograd.py"
KERNELS = "tests/test_gradient_kernels.py"


def norms(name: str) -> tuple[str, ...]:
    return (f"{BY_HAND}::test_declared_gradients[{name}]",)


MUTANTS = (
    Mutant(
        "saved-inputs-are-exchanged",
        AUTOGRAD,
        "ctx.save_for_backward(*inputs[:tensors], *(results[i] for i in way.kept))",
        "ctx.save_for_backward(*inputs[:tensors][::-1], *(results[i] for i in way.kept))",
        norms("silu_mul"),
    ),
    Mutant(
        "the-norm-is-kept-for-the-sum",
        NORMS,
        "backward_of_add, kept=(1,), always=True)",
        "backward_of_add, kept=(0,), always=True)",
        norms("add_rms_norm"),
    ),
    Mutant(
        "result-and-log-sum-exp-are-exchanged",
        ATTENTION,
        'saving="attention_with_lse", kept=(0, 1), always=True',
        'saving="attention_with_lse", kept=(1, 0), always=True',
        norms("attention"),
    ),
    Mutant(
        "gradients-of-a-layer-are-exchanged",
        LINEAR,
        "            kept=(1, 2, 3),\n",
        "            kept=(2, 1, 3),\n",
        norms("linear_cross_entropy"),
    ),
    Mutant(
        "an-input-gets-no-gradient",
        AUTOGRAD,
        "        return tuple(found.get(name) for name in signature.names)",
        "        return (found.get(signature.names[0]), *(None for _ in signature.names[1:]))",
        norms("silu_mul"),
    ),
    Mutant(
        "the-last-gradient-is-dropped",
        AUTOGRAD,
        "    ours, theirs = zip(*live, strict=True)\n    with reference",
        "    ours, theirs = zip(*live[:1], strict=True)\n    with reference",
        (f"{DERIVED}::test_every_result_passes_its_gradient_on",),
    ),
    Mutant(
        "a-declared-gradient-applies-always",
        AUTOGRAD,
        "        if not (runs and self.tried(functools.partial(gradient.applies, arguments,"
        " needed))):",
        "        if not runs:",
        (f"{KERNELS}::test_tables_that_need_a_gradient_get_eagers",),
    ),
    Mutant(
        "a-second-derivative-is-nothing",
        AUTOGRAD,
        "        if torch.is_grad_enabled():  # create_graph=True",
        "        if False:",
        (f"{DERIVED}::test_double_backward_is_refused_only_when_it_happens",),
    ),
    Mutant(
        "tangents-are-dropped",
        AUTOGRAD,
        "        if forward_ad._current_level >= 0:",
        "        if False:",
        (f"{DERIVED}::test_forward_mode_is_refused",),
    ),
    Mutant(
        "sizes-are-not-compared",
        "lowering/custom_op.py",
        "    shape_check.check(defined.op, arguments, outputs)  # in a compiled graph the fake has"
        " done it\n",
        "",
        ("tests/test_ops_define.py::test_sizes_that_do_not_fit_are_refused",),
    ),
    Mutant(
        "the-residual-gets-no-gradient",
        NORMS,
        '    terms = [name for name in ("x", "residual") if name in needed]',
        '    terms = [name for name in ("x",) if name in needed]',
        norms("add_rms_norm"),
    ),
    Mutant(
        "the-gradient-of-the-sum-is-dropped",
        NORMS,
        "            run, arguments, total, dnormed, dtotal, needed, of_x=bool(terms)",
        "            run, arguments, total, dnormed, None, needed, of_x=bool(terms)",
        norms("add_rms_norm"),
    ),
    Mutant(
        "the-offset-of-a-weight-is-dropped",
        NORMS,
        "        slope = slope * (weight.float() + offset)",
        "        slope = slope * weight.float()",
        norms("rms_norm"),
    ),
    Mutant(
        "the-mean-of-a-layer-norm-is-constant",
        NORMS,
        "    dx = scale * (slope - slope.mean(-1, keepdim=True) - unit * share)",
        "    dx = scale * (slope - unit * share)",
        norms("layer_norm"),
    ),
    Mutant(
        "the-scale-of-a-norm-is-constant",
        NORMS,
        "dx = scale * (slope - unit * ((slope * hidden).mean(-1, keepdim=True) * scale))",
        "dx = scale * slope",
        norms("rms_norm"),
    ),
    Mutant(
        "a-silu-is-its-sigmoid",
        GATES,
        "    slope = share * (1 + alpha * wide * (1 - share))",
        "    slope = share",
        norms("silu_mul"),
    ),
    Mutant(
        "gate-and-up-are-exchanged",
        GATES,
        "    return torch.cat(pair[::-1] if up_first else pair, -1)",
        "    return torch.cat(pair if up_first else pair[::-1], -1)",
        (f"{BY_HAND}::test_packed_gradients",),
    ),
    Mutant(
        "a-gelu-has-no-density",
        GATES,
        "wide * share, share + wide * density, of_gate, of_up",
        "wide * share, share, of_gate, of_up",
        norms("gelu_mul"),
    ),
    Mutant(
        "a-rotation-is-turned-on",
        ROTARY,
        "pair = (first * cos_1 + second * sin_2, second * cos_2 - first * sin_1)",
        "pair = (first * cos_1 - second * sin_2, second * cos_2 + first * sin_1)",
        norms("rotary"),
    ),
    Mutant(
        "the-angles-of-a-pair-are-exchanged",
        ROTARY,
        "pair = (first * cos_1 + second * sin_2, second * cos_2 - first * sin_1)",
        "pair = (first * cos_2 + second * sin_1, second * cos_1 - first * sin_2)",
        norms("rotary"),
    ),
    Mutant(
        "a-softmax-forgets-its-sum",
        "patterns/softmax.py",
        "    return (found * (slope - (slope * found).sum(-1, keepdim=True))).to(x.dtype)",
        "    return (found * slope).to(x.dtype)",
        norms("softmax"),
    ),
    Mutant(
        "weights-forget-their-sum",
        SCORES,
        "    slopes = weights * (slopes - delta[..., None])",
        "    slopes = weights * slopes",
        norms("attention"),
    ),
    Mutant(
        "a-soft-cap-has-no-slope",
        SCORES,
        "        slopes = slopes * (1 - (unmasked / softcap).square())",
        "        pass",
        norms("attention_capped"),
    ),
    Mutant(
        "a-sink-pulls-the-other-way",
        ATTENTION,
        "    return -(weights * delta).sum((0, 2))",
        "    return (weights * delta).sum((0, 2))",
        norms("attention_with_sinks"),
    ),
    Mutant(
        "a-fill-that-counts-has-the-gradient-of-none",
        ATTENTION,
        '    softmax = arguments["fill"] is None or (is_added(arguments["mask"]) and'
        " is_alone(arguments))",
        "    softmax = True",
        norms("attention_filled"),
    ),
    Mutant(
        "ignored-rows-have-a-gradient",
        LOSS,
        "    weight = factor.expand(labels.shape).unsqueeze(-1).masked_fill(ignored, 0.0)",
        "    weight = factor.expand(labels.shape).unsqueeze(-1)",
        norms("cross_entropy"),
    ),
    Mutant(
        "ignored-rows-are-counted",
        LOSS,
        "    count = (labels != ignore_index).sum()",
        "    count = labels.numel() + 0 * labels.sum()",
        norms("cross_entropy"),
    ),
    Mutant(
        "smoothing-has-no-gradient",
        LOSS,
        "        slope = slope - (label_smoothing / z.shape[-1] - nothing)",
        "        pass",
        norms("cross_entropy_smoothed"),
    ),
)
