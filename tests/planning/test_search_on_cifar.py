"""The search on the CIFAR-10 model: what it costs, and that its caches tell the truth."""

from pathlib import Path

import pytest
import torch

from igd_ray.catalog import run_query
from igd_ray.planning.search import SearchOptions
from igd_ray.planning.verbs import search
from igd_ray.search import Setting
from tests.planning.test_search import Counted, PassCounter, defended, predictions, study_in

IMAGES = 2000
# Three σ and four τ, by bisection over the 128 neurons.
SPACE = SearchOptions(sigmas=(2 / 255, 4 / 255, 8 / 255), taus=(0.001, 0.01, 0.1, 1.0))


@pytest.mark.slow
def test_three_sigmas_and_four_taus_cost_four_passes_and_seconds_and_predict_as_the_defended_model(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"model": f"{shared}/models/cifar_resnet.py:resnet18", "model_arg": {"width": 16}, "classes": "cifar10"}
    weights = f"{shared}/models/cifar10_resnet18_w16.safetensors"
    data = f"parquet:{shared}/data/cifar10/{{split}}.parquet"
    given = {**model, "weights": weights, "data": data, "n": 8, "probe_n": 500, "search_n": IMAGES}
    with study_in(tmp_path / "results", **given) as study:
        plan = study.plan_search(study.plan_ranking("loir"), tolerance=0.005, options=SPACE)
        study.rank(plan.ranking)
        # The executor's replica, which has ranked, counts from here on; the trials' replica from its start.
        before, counted = PassCounter(study._started()._worker._context.model), Counted(monkeypatch)
        (result,) = search(study, study.settings, [plan])
        assert before.forwards + counted.images == (1 + 3) * IMAGES
        assert result.chosen is not None
        (row,) = run_query(study.catalog, "SELECT count(*) AS trials, sum(seconds) AS seconds FROM trials").to_pylist()
        assert row["trials"] >= 3 * 4 * 7
        assert row["seconds"] <= 30
        chance = torch.Generator().manual_seed(0)
        for _ in range(20):
            k = int(torch.randint(1, 129, (1,), generator=chance))
            sigma, _tau, draws = plan.space.groups[int(torch.randint(3, (1,), generator=chance))]
            tau = float(10 ** (4 * torch.rand(1, generator=chance, dtype=torch.float64) - 3))
            setting = Setting(k, sigma, tau, draws)
            assert torch.equal(predictions(study, plan, setting), defended(study, plan, setting)), setting
