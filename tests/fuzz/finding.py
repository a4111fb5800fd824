"""A program that fails, as a script that needs nothing of the tests: eager, Inductor, and ours."""

from __future__ import annotations

import re

import torch

from tests.fuzz import names
from tests.fuzz.outcome import Verdict
from tests.fuzz.program import HUGE, SPECIAL, Input, Program

CUSTOM_OPS = f'''
library = torch.library.Library("{names.NAMESPACE}", "DEF")
library.define("store(Tensor(a!) cache, Tensor new) -> ()")
library.impl("store", lambda cache, new: cache.copy_(new) and None, "CompositeExplicitAutograd")


@torch.library.custom_op("{names.NAMESPACE}::scaled_by", mutates_args=("target",))
def scaled_by(target: torch.Tensor, number: float) -> None:
    target.mul_(number)


scaled_by.register_fake(lambda target, number: None)
'''
MAIN = """
def run(function):
    given = inputs()
    leaves = [t for t in given.values() if t.requires_grad]
    results = function(**given)
    found = {{f"result {{i}}": r.detach() for i, r in enumerate(results)}}
    found |= {{f"input {{n}}": t.detach() for n, t in given.items()}}
    floats = [r for r in results if r.requires_grad]
    if leaves and floats:
        total = 0
        for i, r in enumerate(floats):
            weights = torch.randn(r.shape, generator=torch.Generator().manual_seed(i))
            total = total + (r * weights.to(r.dtype)).double().sum()
        grads = torch.autograd.grad(total, leaves, allow_unused=True)
        found |= {{f"gradient {{i}}": g for i, g in enumerate(grads) if g is not None}}
    return found


if __name__ == "__main__":
    want = run(program)
    always = {{"tilegym.kernels": "{kernels}"}}
    for backend, options in (("inductor", None), ("tilegym", always)):
        torch._dynamo.reset()
        try:
            got = run(torch.compile(program, backend=backend, options=options, dynamic={dynamic}))
        except Exception as error:
            print(backend, "raises", type(error).__name__, str(error).strip().splitlines()[0][:200])
            continue
        for name, value in want.items():
            a, b = got[name].double(), value.double()
            same = (a == b) | (a.isnan() & b.isnan())
            far = float((a - b).abs()[~same].max()) if bool((~same).any()) else 0.0
            alike = "" if got[name].stride() == value.stride() else " other strides"
            if far != 0.0 or alike:
                print(backend, name, "differs from eager by", far, alike)
    print("done")
"""


def script(program: Program, verdict: Verdict, way: object, kernels: str) -> str:
    """The text of a file."""
    source = program.source
    head = [f'"""{verdict.kind}: {one_line(verdict.text)}', "", f"Found with: {way}.", '"""', ""]
    head += ["import operator", "", "import torch", "import torch.nn.functional as F"]
    if "checkpoint(" in source:
        head.append("from torch.utils.checkpoint import checkpoint")
    head += (
        ["from torch import autocast, cond"] if "autocast(" in source or "cond(" in source else []
    )
    used = [name for name in names.spelled() if name in source]
    if used:
        head.append("from tile_backend.patterns import all_fusions")
    text = "\n".join(head) + "\n"
    for name in used:
        fusion, _, spelling = name.partition("__")
        text += (
            f"\n{name} = next(s.function for f in all_fusions() if f.name == {fusion!r}"
            f" for s in f.spellings if s.title == {spelling!r})\n"
        )
    text += CUSTOM_OPS if names.NAMESPACE in source else ""
    text += "\n\n" + making(program) + "\n\n" + source + "\n"
    return text + MAIN.format(kernels=kernels, dynamic=len(program.sizes) > 1 or None)


def making(program: Program) -> str:
    """The text of the function that makes the inputs."""
    lines = ["def inputs():", "    torch.manual_seed(0)"]
    for given in program.inputs:
        lines += [f"    {line}" for line in made(given, program)]
    pairs = ", ".join(f"{i.name}={i.name}" for i in program.inputs)
    return "\n".join([*lines, f"    return dict({pairs})"]) + "\n"


def drawn(given: Input, shape: list[int], program: Program) -> str:
    """The call that makes its values."""
    text = {
        "labels": f"torch.randint({program.sizes[0]['V']}, {shape})",
        "order": f"torch.randperm({shape[0] if shape else 0})",
        "gain": f"1 + torch.randn({shape}) / 4",
        "additive": f"torch.randn({shape}).masked_fill(torch.rand({shape}) < 0.2, float('-inf'))",
    }.get(given.kind, f"torch.randn({shape})")
    if given.dtype is torch.bool:
        text = f"torch.rand({shape}) < 0.7"
    elif given.dtype is torch.complex64:
        text = f"torch.polar(torch.ones({shape}), torch.randn({shape}))"
    narrow = given.dtype in (torch.bfloat16, torch.float16)
    return f"({text}).to({given.dtype})" if narrow else text


def made(given: Input, program: Program) -> list[str]:
    name, shape = given.name, list(given.shape(program.sizes[0]))
    if given.base:
        return [f"{name} = {given.view}"]
    text = drawn(given, shape, program)
    lines = [f"{name} = {text}"]
    for what, where in given.special:
        huge = HUGE * torch.finfo(given.dtype).max
        number = SPECIAL.get(what, huge)
        lines.append(f"{name}.view(-1)[{where} % {name}.numel()] = float('{number!r}')")
    if given.grad and program.trains:
        lines.append(f"{name}.requires_grad_()")
    return lines


def one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)[:160].replace('"', "'").replace("\\", "/")
