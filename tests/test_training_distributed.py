"""DistributedDataParallel and FSDP2 on two processes of a CPU (gloo), every site rewritten.

After three steps the parameters are those of one process that sees both halves of each batch,
within the budget, and the same in both processes; both found the same sites.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from tests.training import processes, ranks
from tests.training.loops import ADAM, batches, llama
from tests.training.ranks import WIDE, Outcome
from tile_backend.lowering import oracle
from tile_backend.lowering.budget import within_budget

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Outcome]]:
    """By process, then by kind: those whose graphs are cut."""
    return processes.outcomes(ranks.work, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Outcome]]:
    """Likewise, of the simpler kinds, which have one graph."""
    return processes.outcomes(ranks.work_of_whole_graphs, tmp_path_factory.mktemp("whole"))


def trained(model: torch.nn.Module) -> list[torch.Tensor]:
    """The parameters after the same steps in one process, uncompiled."""
    optimiser = torch.optim.AdamW(model.parameters(), **ADAM)
    for batch in batches():
        model(**batch).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return [parameter.detach() for parameter in model.parameters()]


def flat(parameters: Any) -> torch.Tensor:
    return torch.cat([parameter.flatten() for parameter in parameters])


CUT: Mapping[str, Mapping[str, int]] = {"data_parallel_in_buckets": WIDE, "sharded": {}}
WHOLE = ("data_parallel", "sharded_layers")


@pytest.mark.full
@pytest.mark.parametrize("kind", CUT)
def test_two_processes_train_what_one_does(kind: str, outcomes: list[dict[str, Outcome]]) -> None:
    check(*(rank[kind] for rank in outcomes), model=llama(**CUT[kind]))


@pytest.mark.full
@pytest.mark.parametrize("kind", WHOLE)
def test_whole_graphs_train_what_one_process_does(
    kind: str, whole: list[dict[str, Outcome]]
) -> None:
    check(*(rank[kind] for rank in whole), model=llama())


def check(first: Outcome, second: Outcome, model: torch.nn.Module) -> None:
    """What two processes trained is what one trains, and the same in both."""
    assert [name for name, _ in model.named_parameters()] == list(first.parameters)
    wide = oracle.widened(model)
    with oracle.Float64():
        exact = trained(wide)
    eager = trained(copy.deepcopy(model))
    verdict = within_budget(flat(first.parameters.values()), flat(exact), flat(eager))
    assert verdict, f"parameters: {verdict}"
    for name, parameter in first.parameters.items():
        assert torch.equal(parameter, second.parameters[name]), f"{name} differs by process"
    assert first.sites == second.sites


@pytest.mark.full
def test_one_bucket_is_one_graph_with_all_sites(whole: list[dict[str, Outcome]]) -> None:
    for rank in whole:
        found = rank["data_parallel"]
        assert found.breaks == []
        expected = {"rms_norm": 1, "add_rms_norm": 4, "attention": 2, "rotary": 2, "silu_mul": 2}
        assert expected.items() <= found.sites.items(), found.sites


@pytest.mark.full
def test_buckets_cut_the_graph_and_the_parts_add_up(outcomes: list[dict[str, Outcome]]) -> None:
    """Several backend calls within one compile: the report has them all."""
    for rank in outcomes:
        found = rank["data_parallel_in_buckets"]
        (report,) = found.reports
        assert len(report.graphs) > 1
        assert all("DDPOptimizer" in reason for reason in found.breaks)
        norms = found.sites["rms_norm"] + found.sites["add_rms_norm"]
        assert (norms, found.sites["attention"], found.sites["silu_mul"]) == (5, 2, 2)


@pytest.mark.full
def test_a_sharded_model_has_graphs_for_its_layers(outcomes: list[dict[str, Outcome]]) -> None:
    """FSDP2's hooks run between them. One compile of a layer serves both, and is counted once."""
    for rank in outcomes:
        found = rank["sharded"]
        (report,) = found.reports
        assert len(report.graphs) > 1
        layer = {"add_rms_norm": 1, "attention": 1, "rotary": 1, "silu_mul": 1}
        assert layer.items() <= found.sites.items(), found.sites
        assert found.sites["rms_norm"] == 2, "of the layer's input, and the model's last"


@pytest.mark.full
def test_layers_compiled_on_their_own_have_no_break(whole: list[dict[str, Outcome]]) -> None:
    for rank in whole:
        found = rank["sharded_layers"]
        assert found.breaks == []
        assert found.sites == {
            "add_rms_norm": 1,
            "attention": 1,
            "rms_norm": 1,
            "rotary": 1,
            "silu_mul": 1,
        }
