"""A ranking in one file outside the package is ranked, searched and evaluated like the package's own."""

import importlib
import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch

from igd_ray.catalog import Catalog, run_query
from igd_ray.cli import main
from igd_ray.defenses.specs import parse_defense
from igd_ray.errors import InputError
from igd_ray.models.sources import code_digest
from igd_ray.planning.rankings import plan_ranking
from igd_ray.ranking import RANKINGS, Ranking, StatisticRanking, rank_neurons, ranking_class, register
from igd_ray.ranking.leave_one_out import LeaveOneOut
from igd_ray.units.base import shards_of
from igd_ray.units.ranking import read_ranking
from tests.toys.runs import rows, settings_for
from tests.toys.sessions import session_for

FILE = "tests.toys.mean_activation"
SMALL = ["--n", "12", "--probe-n", "200", "--search-n", "100", "--executor", "local", "--json"]


@pytest.fixture(scope="module", autouse=True)
def toy() -> Iterator[type[Ranking]]:
    """The toy ranking; other tests do not know it."""
    sys.modules.pop(FILE, None)
    toy: type[Ranking] = importlib.import_module(FILE).MeanActivation
    yield toy
    del RANKINGS["toy"]


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("own") / "results"


def test_it_is_ranked_by_its_name(catalog: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rank", "--method", "toy", "--catalog", str(catalog), *SMALL]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert {(row["method"], row["width"]) for row in printed} == {("toy", 64)}
    with session_for(settings_for(catalog)) as session:
        workspace = session.workspace
        probe, model = workspace.probe, workspace.model
    inputs: list[torch.Tensor] = []
    handle = model.linear.register_forward_pre_hook(lambda _module, arguments: inputs.append(arguments[0]))
    model(probe.images)
    handle.remove()
    means = torch.stack([inputs[0][probe.labels == label].double().mean(dim=0) for label in range(10)])
    kept = read_ranking(Catalog(catalog), printed[0]["ranking_id"])
    for found in (kept, rank_neurons("toy", model, probe, batch_size=70)):
        torch.testing.assert_close(found.scores, means, rtol=1e-5, atol=1e-7)


def test_masks_are_called_after_it(catalog: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["--catalog", str(catalog), *SMALL]
    assert main(["evaluate", "--defenses", "none,toy-8,toy-64", "--attacks", "clean,apgd-ce-3", *common]) == 0
    assert {row["defense"] for row in json.loads(capsys.readouterr().out)} == {"none", "toy-8", "toy-64"}
    outcomes = Counter((row["defense"], row["attack"]) for row in rows(catalog))
    assert outcomes == dict.fromkeys(product(("none", "toy-8", "toy-64"), ("clean", "apgd-ce-3")), 12)
    query = "SELECT DISTINCT method, probe_images FROM rankings"
    assert run_query(Catalog(catalog), query).to_pylist() == [{"method": "toy", "probe_images": 200}]


def test_its_k_is_searched(catalog: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["search", "--method", "toy", "--tolerance", "1", "--ks", "4,8", "--catalog", str(catalog), *SMALL]
    assert main(arguments) == 0
    assert {row["method"] for row in json.loads(capsys.readouterr().out)} == {"toy"}


def test_its_passes_are_counted_before_it_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rank", "--method", "toy", "--catalog", str(tmp_path / "r"), *SMALL, "--dry-run"]) == 0
    first = json.loads(capsys.readouterr().out)[0]
    assert (first["what"], first["units"], first["forward_passes"]) == ("ranking at penultimate", 1, 200)


def test_shards_of_any_size_give_its_scores(tmp_path: Path) -> None:
    found = []
    for size in (30, 200):
        with session_for(settings_for(tmp_path / str(size))) as session:
            workspace = session.workspace
            plan = replace(plan_ranking(workspace, "toy"), shards=shards_of("probe", workspace.probe, size))
            session.rank(plan)
            found.append(read_ranking(workspace.catalog, plan.ranking_id).scores)
    torch.testing.assert_close(found[0], found[1], rtol=1e-6, atol=1e-9)


def test_its_key_counts_its_code_and_the_package_s_own_do_not(toy: type[Ranking], tmp_path: Path) -> None:
    assert code_digest(LeaveOneOut) is None
    with session_for(settings_for(tmp_path / "results")) as session:
        workspace = session.workspace
        assert plan_ranking(workspace, "toy").ranking.options == {"code": code_digest(toy)}
        assert "code" not in plan_ranking(workspace, "loir").ranking.options


def test_code_that_is_in_no_file_is_refused() -> None:
    namespace: dict[str, object] = {"StatisticRanking": StatisticRanking, "__name__": "nowhere"}
    exec("class Nowhere(StatisticRanking): pass", namespace)
    with pytest.raises(InputError, match="the source of Nowhere was not found"):
        code_digest(namespace["Nowhere"])  # type: ignore[arg-type]


def test_a_name_stands_for_one_class(toy: type[Ranking]) -> None:
    assert register("toy")(toy) is toy
    with pytest.raises(ValueError, match="'toy' is registered as MeanActivation"):
        register("toy")(LeaveOneOut)


def test_an_unknown_name_is_told_with_close_matches() -> None:
    with pytest.raises(InputError, match=r"method must be one of .*toy, not 'toi'; did you mean 'toy'"):
        ranking_class("toi")
    with pytest.raises(InputError, match=r"unknown defense 'toi-8'; known: .*toy-K.*did you mean"):
        parse_defense("toi-8")
