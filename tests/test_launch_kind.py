"""What is alike about calls of an op."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.kernel_compile import OPS as OPS_WITH_KERNELS
from tests.kernel_compile import samples_of
from tile_backend.lowering import custom_op
from tile_backend.lowering.launch_kind import UNBOUNDED, kind_of
from tile_backend.lowering.signature import declared
from tile_backend.registry import known_fusions

OPS = {op.name: op for fusion in known_fusions() for op in fusion.ops}


def meta(*shape: Any, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def test_the_words_of_a_norm() -> None:
    given: dict[str, Any] = {"x": meta(2, 2048, 4096), "weight": meta(4096), "eps": 1e-6}
    kind = kind_of(OPS["rms_norm"], given)
    assert kind.text == "rms_norm x=bf16[4096] weight=bf16[4096] rounding=once"
    assert kind.sizes == {"rows": 4096}
    assert kind.range_of("rows") == (4096, 4096)
    assert kind_of(OPS["rms_norm"], {**given, "eps": 1e-5}) == kind
    offset = kind_of(OPS["rms_norm"], {**given, "offset": 1.0, "rounding": "every_op"})
    assert offset.text.endswith("offset=set rounding=every_op")
    strided = kind_of(OPS["rms_norm"], {**given, "x": meta(4096, 8192)[:, :4096]})
    assert "x=bf16[4096]!strided" in strided.text
    assert strided.sizes == kind.sizes
    single = {**given, "weight": None, "x": meta(4096, 4096, dtype=torch.float32)}
    assert kind_of(OPS["rms_norm"], single).text == "rms_norm x=f32[4096] rounding=once"
    unread = kind_of(OPS["rms_norm"], given, (True, False))
    assert unread.text == f"{kind.text} read=0"


def test_the_words_of_attention() -> None:
    q, k = meta(2, 8, 16, 64).transpose(1, 2), meta(2, 4, 512, 64)
    mask = meta(2, 1, 16, 512, dtype=torch.bool)
    given: dict[str, Any] = {"q": q, "k": k, "v": k, "mask": mask, "scale": 0.1}
    kind = kind_of(OPS["attention"], {**given, "is_causal": True, "softcap": 30.0, "window": 128})
    assert kind.text == (
        "attention q=bf16[64] k=bf16[64] v=bf16[64] mask=bool is_causal=true window=128 softcap=set"
    )
    sizes = {"batch": 2, "heads": 16, "queries": 8, "kv_heads": 4, "keys": 512}
    assert kind.sizes == sizes
    later = kind_of(OPS["attention"], {**given, "start": 96})
    assert later.sizes == {**sizes, "start": 96}
    assert "start" not in later.text


def test_dynamic_sizes_have_a_range_and_no_guard() -> None:
    kinds = []

    def backend(module: torch.fx.GraphModule, _: Any) -> Any:
        nodes = module.graph.find_nodes(op="placeholder")
        fakes = (node.meta["example_value"] for node in nodes)
        (x,) = (fake for fake in fakes if isinstance(fake, torch.Tensor))
        environment = x.shape[0].node.shape_env
        before = list(environment.guards)
        kinds.append(kind_of(OPS["rms_norm"], {"x": x, "weight": None, "eps": 1e-6}))
        assert environment.guards == before
        return module.forward

    x = torch.ones(3, 24, 64)
    torch._dynamo.mark_dynamic(x, 0, min=2, max=16)
    torch._dynamo.mark_dynamic(x, 1)
    torch.compile(lambda x: x + 1, backend=backend)(x)
    (kind,) = kinds
    assert kind.text == "rms_norm x=f32[64] rounding=once"
    assert kind.sizes == {"rows": 72}
    assert kind.range_of("rows") == (4, UNBOUNDED)


@pytest.mark.parametrize("op", OPS_WITH_KERNELS)
def test_every_kernel_has_a_kind_that_takes_no_size_for_a_feature(op: str) -> None:
    custom_op.define(known_fusions())
    names = declared(OPS[op]).names
    for arguments, outputs in samples_of(op).values():
        kind = kind_of(OPS[op], arguments, [out is not None for out in outputs])
        assert kind.text.split()[0] == op
        assert kind.sizes
        assert all(isinstance(size, int) and size > 0 for size in kind.sizes.values()), kind
        assert set(arguments) <= set(names)
