"""Command-line targets: model types, folders, Python objects, and the words for what is none."""

from __future__ import annotations

import builtins
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tile_backend import tiny_model
from tile_backend.errors import BadTarget, MissingDependency, UnknownTarget
from tile_backend.targets import Request

HERE = "tests.test_cli_targets"


class Doubling(torch.nn.Module):
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x * 2 + y


doubling = Doubling()


def factory() -> tuple[Any, ...]:
    return doubling, (torch.ones(2), torch.ones(2))


def keyword_factory() -> tuple[Any, ...]:
    return doubling, (torch.ones(2),), {"y": torch.ones(2)}


def unfinished_factory() -> torch.nn.Module:
    return doubling


def add(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x + y


def test_a_model_type_is_a_tiny_model_with_tokens() -> None:
    target = Request("llama", batch=3, length=5, dtype="bfloat16").resolve()
    assert target.title == "LlamaForCausalLM"
    assert isinstance(target.function, torch.nn.Module)
    assert {p.dtype for p in target.function.parameters()} == {torch.bfloat16}
    assert not target.function.training
    assert target.kwargs["input_ids"].shape == (3, 5)
    assert target.function(**target.kwargs).logits.shape == (3, 5, 128)


def test_a_tiny_model_is_the_same_every_time_and_leaves_random_numbers_alone() -> None:
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    first, second = tiny_model.tiny_model("llama"), tiny_model.tiny_model("llama")
    assert torch.equal(torch.random.get_rng_state(), state)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    norm = first.get_submodule("model.norm").weight
    assert isinstance(norm, torch.Tensor)
    assert norm.std() > 0.1


def test_attention_is_chosen_and_eager_where_the_class_has_no_other() -> None:
    asked = Request("llama", attention="eager").resolve().function
    only = Request("gpt_oss").resolve().function
    assert [model.config._attn_implementation for model in (asked, only)] == ["eager"] * 2


def test_a_folder_is_its_configuration_at_full_size_without_memory(tmp_path: Path) -> None:
    config = {"model_type": "llama", "hidden_size": 8192, "num_hidden_layers": 3, "vocab_size": 99}
    (tmp_path / "config.json").write_text(json.dumps(config))
    target = Request(str(tmp_path)).resolve()
    assert target.title == "LlamaForCausalLM"
    assert {p.device.type for p in target.function.parameters()} == {"meta"}
    assert target.kwargs["input_ids"].shape == (2, 24)


@pytest.mark.parametrize(
    ("name", "args", "kwargs"), (("factory", 2, []), ("keyword_factory", 1, ["y"]))
)
def test_a_factory_brings_its_inputs(name: str, args: int, kwargs: list[str]) -> None:
    target = Request(f"{HERE}:{name}").resolve()
    assert (target.title, len(target.args), list(target.kwargs)) == ("Doubling", args, kwargs)
    assert target.function(*target.args, **target.kwargs).tolist() == [3.0, 3.0]


@pytest.mark.parametrize(("name", "title"), (("add", "add"), ("doubling", "Doubling")))
def test_a_function_or_module_with_inputs(name: str, title: str) -> None:
    target = Request(f"{HERE}:{name}", inputs=("bfloat16[2, 3]", "int64[3]")).resolve()
    assert target.title == title
    assert [(tuple(x.shape), x.dtype) for x in target.args] == [
        ((2, 3), torch.bfloat16),
        ((3,), torch.int64),
    ]


@pytest.mark.parametrize(
    ("request_", "words"),
    (
        (Request("lama"), "has no causal language model of that type, the nearest is 'llama'"),
        (Request("no_such_module:f"), "No module named 'no_such_module'"),
        (Request(f"{HERE}:missing"), "has no attribute 'missing'"),
        (Request(":f"), "Empty module name"),
    ),
)
def test_an_unknown_target(request_: Request, words: str) -> None:
    with pytest.raises(UnknownTarget) as caught:
        request_.resolve()
    assert words in str(caught.value)
    assert "A target is a model type of Transformers (llama), a folder" in str(caught.value)


@pytest.mark.parametrize(
    ("request_", "words"),
    (
        (Request(f"{HERE}:doubling"), "its inputs are not known (Doubling). Add --input"),
        (
            Request(f"{HERE}:unfinished_factory"),
            "returned Doubling. A factory returns (callable, args)",
        ),
        (
            Request(f"{HERE}:Doubling", inputs=("float32[2]",)),
            "it is no function or module instance",
        ),
        (Request(f"{HERE}:add", inputs=("float[2]x",)), "--input 'float[2]x' is no tensor"),
        (Request(f"{HERE}:add", inputs=("f99[2]",)), "Write it as 'float32[2,16,64]'"),
        (Request("llama", inputs=("float32[2]",)), "it takes token ids. Leave out --input"),
        (Request("llama", dtype="int8"), "--dtype 'int8' is no floating dtype"),
        (Request("tests"), "the folder has no config.json"),
    ),
)
def test_a_target_that_cannot_be_used(request_: Request, words: str) -> None:
    with pytest.raises(BadTarget) as caught:
        request_.resolve()
    assert words in str(caught.value)


def test_a_folder_that_transformers_cannot_build(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "not-a-model"}')
    with pytest.raises(BadTarget, match="Transformers cannot build it"):
        Request(str(tmp_path)).resolve()


def test_without_transformers_a_model_type_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "transformers":
            raise ImportError("blocked")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingDependency, match="Install it: pip install transformers"):
        Request("qwen2_moe").resolve()


@pytest.mark.parametrize(
    ("request_", "name", "command"),
    (
        (Request("llama"), "llama.lock.json", "python -m tile_backend lock llama"),
        (
            Request("a.b:c", inputs=("float32[2]",), batch=4),
            "a.b_c.lock.json",
            "python -m tile_backend lock a.b:c --input 'float32[2]' --batch 4",
        ),
    ),
)
def test_lock_name_and_command(request_: Request, name: str, command: str) -> None:
    assert (request_.lock_name(), request_.command()) == (name, command)
