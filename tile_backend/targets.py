"""What a TARGET of the command line means: a callable with its inputs.

llama                    a tiny random model of that type of Transformers, never downloaded
path/with/config.json    the model of that configuration at its full size, without weights
package.module:factory   called without arguments; returns (callable, args) or
(callable, args, kwargs)
package.module:function  with --input: called with random tensors, one per --input
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch

from tile_backend import tiny_model
from tile_backend.errors import BadTarget, UnknownTarget
from tile_backend.file_names import safe

INPUT = re.compile(r"(?P<dtype>\w+)\[(?P<sizes>[\d,\s]*)\]")


@dataclasses.dataclass(frozen=True)
class Target:
    """`function(*args, **kwargs)` is what to look at; `title` names it."""

    title: str
    function: Callable[..., Any]
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Request:
    """A TARGET and what goes with it.

    inputs:    of a function: "float32[2,16,64]", one per argument.
    batch, length, dtype, attention: of a language model.
    weights: a folder's model gets random ones, and memory for them.
    """

    target: str
    inputs: tuple[str, ...] = ()
    batch: int = 2
    length: int = 24
    dtype: str = "float32"
    attention: str | None = None
    weights: bool = False

    def resolve(self) -> Target:
        """Raises `UnknownTarget`, `BadTarget` or `MissingDependency`."""
        if ":" in self.target:
            return self.python_object()
        if self.inputs:
            raise self.bad("it takes token ids", "Leave out --input, and use --batch and --length")
        folder = Path(self.target)
        if (folder / "config.json").is_file():
            return self.folder(folder)
        if folder.is_dir():
            raise self.bad("the folder has no config.json", "Give the folder of a model")
        model = tiny_model.tiny_model(self.target, self.attention, self.torch_dtype())
        return self.language_model(model, tiny_model.tokens(self.batch, self.length))

    def folder(self, folder: Path) -> Target:
        """The model of a folder's config.json; on the meta device, unless weights are wanted."""
        package = tiny_model.transformers()
        try:
            config = package.AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            with torch.device("cpu" if self.weights else "meta"):
                model = tiny_model.from_config(config, self.attention, self.torch_dtype())
        except (OSError, ValueError, KeyError) as error:
            raise self.bad(
                f"Transformers cannot build it ({error})", "Check its config.json"
            ) from error
        vocabulary = config.get_text_config().vocab_size
        ids = tiny_model.tokens(self.batch, self.length, vocabulary)
        return self.language_model(model.eval(), ids if self.weights else ids.to("meta"))

    def language_model(self, model: torch.nn.Module, ids: torch.Tensor) -> Target:
        """One forward pass without a cache."""
        return Target(type(model).__name__, model, (), {"input_ids": ids, "use_cache": False})

    def python_object(self) -> Target:
        """`package.module:name`, a factory or, with inputs, the callable itself."""
        found = self.imported()
        if self.inputs:
            if isinstance(found, type) or not callable(found):
                raise self.bad("it is no function or module instance", "Name one of these")
            return Target(title_of(found), found, tuple(map(self.tensor, self.inputs)))
        if isinstance(found, torch.nn.Module) or not callable(found):
            raise self.bad(
                f"its inputs are not known ({type(found).__name__})",
                "Add --input 'float32[2,16,64]' for each of its arguments",
            )
        made = found()
        if not isinstance(made, tuple) or len(made) not in (2, 3) or not callable(made[0]):
            raise self.bad(
                f"called without arguments it returned {type(made).__name__}",
                "A factory returns (callable, args) or (callable, args, kwargs); "
                "add --input to name the arguments of a function",
            )
        function, args, kwargs = (*made, {})[:3]
        return Target(title_of(function), function, tuple(args), kwargs)

    def imported(self) -> Any:
        """The object that "package.module:name.inner" names."""
        module_name, _, path = self.target.partition(":")
        if "" not in sys.path and str(Path.cwd()) not in sys.path:
            sys.path.insert(0, str(Path.cwd()))  # `python -m` has it, the console script has not
        try:
            found: Any = importlib.import_module(module_name)
            for part in path.split("."):
                found = getattr(found, part)
        except (ImportError, AttributeError, ValueError) as error:
            raise UnknownTarget(target=self.target, cause=error) from error
        return found

    def tensor(self, text: str) -> torch.Tensor:
        """A random tensor for "float32[2,16,64]"; integers are zeros and ones."""
        match = INPUT.fullmatch(text.strip())
        dtype = getattr(torch, match["dtype"], None) if match else None
        if match is None or not isinstance(dtype, torch.dtype):
            raise self.bad(f"--input {text!r} is no tensor", "Write it as 'float32[2,16,64]'")
        sizes = [int(size) for size in match["sizes"].split(",") if size.strip()]
        if dtype.is_floating_point or dtype.is_complex:
            return torch.randn(sizes).to(dtype)
        return torch.randint(0, 2, sizes).to(dtype)

    def torch_dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        dtype = getattr(torch, self.dtype, None)
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            raise self.bad(
                f"--dtype {self.dtype!r} is no floating dtype", "Try float32 or bfloat16"
            )
        return dtype

    def lock_name(self) -> str:
        """The file that `lock` writes unless told otherwise: "llama.lock.json"."""
        return safe(re.sub(r"[^\w.-]+", "_", self.target).strip("_")) + ".lock.json"

    def command(self) -> str:
        """How to write the lock file of this target again."""
        given = [f"--input {text!r}" for text in self.inputs]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in ("target", "inputs") and value != field.default:
                given.append(f"--{field.name} {value}")
        return " ".join(["python -m tile_backend lock", self.target, *given])

    def bad(self, cause: str, fix: str) -> BadTarget:
        """The error, to be raised by the caller."""
        return BadTarget(target=self.target, cause=cause, fix=fix)


def title_of(function: object) -> str:
    """The class of a module, the name of anything else."""
    if isinstance(function, torch.nn.Module):
        return type(function).__name__
    return cast("str", getattr(function, "__qualname__", type(function).__name__))
