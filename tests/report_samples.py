"""Hand-made sites and reports, small enough that a test can state every word about them."""

from __future__ import annotations

from tile_backend.lowering.reason import Reason, ReasonKind
from tile_backend.lowering.site import Decision, GraphLine, OpCall, Site, TensorSpec
from tile_backend.report import GraphFacts, Report

ROWS = TensorSpec("float32", ("s27", 64), (64, 1), "cpu", (6, 64), (64, 1))
GAIN = TensorSpec("float32", (64,), (1,), "cpu", (64,), (1,))
CPU = Decision("reference", "the inputs are on a CPU")
NORM_CALL = OpCall(
    op="rms_norm",
    arguments={"x": ROWS, "weight": GAIN, "eps": 1e-06, "offset": 0.0, "rounding": "once"},
    operands={"x": "hidden", "weight": "norm_weight"},
    results=(ROWS,),
)
NORM_LINES = (
    GraphLine("pow_1", "pow_1 = hidden.pow(2)", "lib/modeling.py", 65, "h.pow(2).mean(-1)"),
    GraphLine("mean", "mean = pow_1.mean(-1)", "lib/modeling.py", 65, "h.pow(2).mean(-1)"),
    GraphLine("mul_1", "mul_1 = norm_weight * to_1", "lib/modeling.py", 67, "return w * h"),
)
GATE = Reason(ReasonKind.NOT_PROFITABLE, "the gate expects no gain for so few rows")
EPSILON = Reason(
    ReasonKind.OP_DIFFERS,
    "epsilon is added after the root, where before is expected",
    node="add_7",
    fix="add it to the mean",
)


def norm(module: str, graph: int = 0, decision: Decision = CPU, index: int = 1) -> Site:
    return Site(
        fusion="rms_norm",
        status="fused",
        module=module,
        source="modeling.py:67",
        graph=graph,
        spelling="cast_after_weight",
        decision=decision,
        ops=("pow", "mean", "mul"),
        bindings={"rounding": "once", "kv": float("inf")},
        before=NORM_LINES,
        after=(f"rms_{index} = torch.ops.tilegym.rms_norm(hidden, norm_weight, 1e-06)",),
        call=NORM_CALL,
        source_path="lib/modeling.py",
    )


def declined(module: str, reason: Reason = GATE) -> Site:
    return Site("silu_mul", "declined", module, "modeling.py:61", 0, reason=reason)


def near_miss(module: str) -> Site:
    return Site(
        "add_rms_norm",
        "near-miss",
        module,
        "modeling.py:71",
        0,
        spelling="pre_every_op",
        reason=EPSILON,
        before=NORM_LINES[:2],
        progress="9/10 ops",
    )


FACTS = GraphFacts(dtypes=("float32",), symbols=("s27",), ops=40, anchored=("rms_norm",))
REPORT = Report("Tiny", graphs=()).extended(
    [
        *(norm(f"model.layers.{i}.input_layernorm", index=i) for i in range(4)),
        norm("model.norm"),
        declined("model.layers.0.mlp"),
        declined("model.layers.3.mlp"),
        near_miss("model.final"),
    ],
    FACTS,
)
