"""At which shapes `bench.fusions` measures each fusion, and where these come from.

The programs are plain PyTorch as models write it (`training_programs`). Shapes: those of the
declarations (`Fusion.bench`), those that TileGym and Liger benchmark their ops at, and those of the
models of `model_configs`. Attention has its own bench; its cases of real models are run here, too.
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from bench import attention_cases, training_programs
from bench.model_configs import MODELS
from bench.training_programs import Program
from tile_backend.lowering.fusion import Fusion, Scalar
from tile_backend.patterns import all_fusions

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
PREFILL, DECODE = 8192, 64
"""Rows of a prefill and of a decode step of the models."""
TO_14 = (1024, 2048, 4096, 8192, 16384)
"""Powers of two up to the 14th, as TileGym's benches have them."""
COUNTS = ("labels",)
"""Tensors of whole numbers."""
CLASSES = {"logits": -1, "head": 0}
"""Which dimension of which tensor says how many classes there are."""


@dataclasses.dataclass(frozen=True)
class Case:
    """A program at one set of shapes. origin: whose shapes these are. train: with its backward."""

    fusion: str
    origin: str
    program: Program
    train: bool = False

    @property
    def title(self) -> str:
        return f"{self.program.title} {self.step}"

    @property
    def step(self) -> str:
        return "forward and backward" if self.train else "forward"

    def inputs(self, device: str) -> list[torch.Tensor]:
        """Random, the same each time; none needs a gradient unless the step is a training step."""
        made = self.program.inputs(device)
        return made if self.train else [x.detach() for x in made]

    @property
    def bytes(self) -> int:
        """The least that has to be moved: inputs and results, each once; in a training step also
        the gradients of both, and the inputs a second time.
        """
        with torch.device("meta"):
            inputs = self.program.inputs("meta")
            results = training_programs.results_of(self.program.function(*inputs))
        read, written = sum(map(size, inputs)), sum(map(size, results))
        if not self.train:
            return read + written
        return 2 * read + 2 * written + sum(size(x) for x in inputs if x.requires_grad)

    @property
    def flop(self) -> int:
        """Of the matrix products; 0 where there are none."""
        if self.fusion != "linear_cross_entropy":
            return 0
        rows, width = self.program.shapes["hidden"]
        return (6 if self.train else 2) * rows * width * self.program.shapes["head"][0]


def size(x: torch.Tensor) -> int:
    """Bytes."""
    return x.numel() * x.element_size()


# --- programs at shapes ---------------------------------------------------------------------------


def templates() -> dict[str, Program]:
    """By fusion."""
    return {program.title: program for program in training_programs.programs("cuda")}


def program(name: str, dtype: torch.dtype, **shapes: tuple[int, ...]) -> Program:
    """A fusion's program at these shapes, under a title that says them."""
    found = templates()[name]
    classes = {n: shapes[of][at] for of, at in CLASSES.items() if of in shapes for n in COUNTS}
    first = "x".join(map(str, next(iter(shapes.values()))))
    if "head" in shapes:
        first += f" to {shapes['head'][0]}"
    title = f"{name} {first} {str(dtype).removeprefix('torch.')}"
    return dataclasses.replace(found, title=title, shapes=shapes, labels=classes, dtype=dtype)


def norm(name: str, rows: int, width: int, dtype: torch.dtype = BF16) -> Program:
    """rms_norm, add_rms_norm, layer_norm, softmax."""
    x, gain = (rows, width), (width,)
    shapes = {n: gain if n in ("weight", "bias") else x for n in templates()[name].shapes}
    return program(name, dtype, **shapes)


def gate(name: str, rows: int, width: int, dtype: torch.dtype = BF16) -> Program:
    """silu_mul, gelu_mul."""
    return program(name, dtype, gate=(rows, width), up=(rows, width))


def rotary(
    batch: int, heads: int, kv_heads: int, length: int, width: int, dtype: torch.dtype = BF16
) -> Program:
    """q and k of one layer, and their tables."""
    table = (batch, length, width)
    q, k = (batch, heads, length, width), (batch, kv_heads, length, width)
    return program("rotary", dtype, q=q, k=k, cos=table, sin=table)


def loss(rows: int, classes: int, width: int = 0, dtype: torch.dtype = BF16) -> Program:
    """cross_entropy; with a width linear_cross_entropy."""
    if not width:
        return program("cross_entropy", dtype, logits=(rows, classes), labels=(rows,))
    shapes = {"hidden": (rows, width), "head": (classes, width), "labels": (rows,)}
    return program("linear_cross_entropy", dtype, **shapes)


# --- whose shapes ---------------------------------------------------------------------------------


def declared() -> Iterator[Case]:
    """Those of the declarations, attention's excepted."""
    for fusion in all_fusions():
        for shape in fusion.bench:
            if fusion.name != "attention":
                made = of_declaration(fusion, shape.shapes)
                yield Case(fusion.name, f"declaration: {shape.name}", made)


def of_declaration(fusion: Fusion, shapes: Mapping[str, tuple[int, ...]]) -> Program:
    """A program that this bench knows, else the first spelling of the declaration."""
    if fusion.name in templates():
        names = {"weight": "head"} if "hidden" in shapes else {}
        given = {names.get(name, name): shape for name, shape in shapes.items()}
        for table in {"cos", "sin"} & given.keys():  # a program's tables have no dimension of heads
            given[table] = tuple(given[table][i] for i in (0, 2, 3))
        return program(fusion.name, BF16, **given)
    first = "x".join(map(str, next(iter(shapes.values()))))
    function = fusion.supported[0].function
    taken = inspect.signature(function).parameters
    numbers = {
        name: training_programs.EPSILON if hole.type is float else hole.type()
        for name, hole in fusion.holes.items()
        if isinstance(hole, Scalar) and name in taken
    }
    return Program(f"{fusion.name} {first} bfloat16", with_numbers(function, numbers), shapes)


def with_numbers(function: Any, numbers: Mapping[str, Any]) -> Any:
    """The function of its tensors alone."""
    return (lambda *tensors: function(*tensors, **numbers)) if numbers else function


def of_tilegym() -> list[Program]:
    """Of its `tests/benchmark/`; of its larger tables every second size."""
    each = itertools.product
    return [
        *(norm("rms_norm", 4096, width, dtype) for width, dtype in each(TO_14, (FP16, BF16))),
        *(norm("softmax", 4096, width, dtype) for width, dtype in each(TO_14, (FP32, BF16))),
        *(gate("silu_mul", rows, 2048, dtype) for rows, dtype in each(TO_14, (FP16, FP32))),
        *(gate("silu_mul", *size) for size in each((128, 1024, 4096, 32768), (1024, 4096, 16384))),
        *(norm(name, 4096, width) for name, width in each(("add_rms_norm", "layer_norm"), TO_14)),
        *(norm("layer_norm", 30000, width) for width in (256, 1024, 4096)),
        *(rotary(1, 16, 16, length, 64, FP16) for length in (4096, 8192, 16384, 32768)),
        *(gate("gelu_mul", 2048, width) for width in (2048, 4096, 8192)),
        *(loss(16, classes) for classes in (32000, 100000, 128256)),
        *(loss(rows, 32768, 1024) for rows in (512, 2048, 8192, 16384)),
    ]


def of_liger() -> Iterator[Program]:
    """Llama 3 8B at so many tokens."""
    for tokens in (1024, 4096, 16384):
        for name in ("rms_norm", "add_rms_norm", "layer_norm", "softmax"):
            yield norm(name, tokens, 4096)
        yield gate("silu_mul", tokens, 14336)
        yield gate("gelu_mul", tokens, 14336)
        yield rotary(1, 32, 8, tokens, 128)
    for tokens in (1024, 4096):
        yield loss(tokens, 128256)
        yield loss(tokens, 128256, 4096)


def of_models() -> Iterator[tuple[str, Program]]:
    """Prefill and decode of the models, each shape once."""
    seen: set[str] = set()
    for model, rows in itertools.product(MODELS, (PREFILL, DECODE)):
        config = model.config
        hidden, middle = config["hidden_size"], config["intermediate_size"]
        gated = "gelu_mul" if model.family.startswith("gemma") else "silu_mul"
        batch, length = (1, rows) if rows == PREFILL else (rows, 1)
        heads = config["num_attention_heads"], config["num_key_value_heads"]
        made = [
            norm("rms_norm", rows, hidden),
            norm("add_rms_norm", rows, hidden),
            rotary(batch, *heads, length, model.head_dim),
        ]
        if model.family != "gpt_oss":  # its experts clamp, and multiply by up + 1
            made.append(gate(gated, rows, middle))
        for one in made:
            if one.title not in seen:
                seen.add(one.title)
                yield model.name, one


def cases() -> list[Case]:
    """All of them, each title once; forward, and with the backward where Liger trains as well."""
    found = [*declared()]
    found += [Case(p.title.split()[0], "TileGym", p) for p in of_tilegym()]
    found += [Case(p.title.split()[0], name, p) for name, p in of_models()]
    found += [Case(p.title.split()[0], "Liger", p, train=True) for p in of_liger()]
    return list({case.title: case for case in reversed(found)}.values())[::-1]


def attention() -> list[attention_cases.Case]:
    """Of `attention_cases` those of real models."""
    return [case for case in attention_cases.gpu_cases() if case.title.startswith("llama")]


def cpu_cases() -> list[Case]:
    """One of each, small enough for two cores, in float32; forward, and with the backward."""
    small = [
        *(norm(n, 1024, 1024, FP32) for n in ("rms_norm", "add_rms_norm", "layer_norm", "softmax")),
        *(gate(n, 1024, 2816, FP32) for n in ("silu_mul", "gelu_mul")),
        rotary(1, 16, 4, 1024, 64, FP32),
        loss(256, 32064, dtype=FP32),
        loss(256, 32064, 512, FP32),
    ]
    found = [Case(p.title.split()[0], "reduced for a CPU", p) for p in small]
    return [case for one in found for case in (one, dataclasses.replace(one, train=True))]
