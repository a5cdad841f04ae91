"""The search on the CIFAR-10 model: what it costs, and that its caches tell the truth."""

from pathlib import Path

import pytest
import torch

from igd_ray.catalog import run_query
from igd_ray.search import Setting
from igd_ray.verbs.search import search
from tests.planning.test_search import Counted, defended, plan_of, predictions, session_in

IMAGES = 2000
# Three σ and four τ, by bisection over the 128 neurons.
SPACE = {"sigmas": (0.25, 0.5, 1.0), "taus": (0.001, 0.01, 0.1, 1.0)}


@pytest.mark.slow
def test_three_sigmas_and_four_taus_cost_four_passes_and_seconds_and_predict_as_the_defended_model(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = {"model": f"{shared}/models/cifar_resnet.py:resnet18", "model_arg": {"width": 16}, "classes": "cifar10"}
    weights = f"{shared}/models/cifar10_resnet18_w16.safetensors"
    data = f"parquet:{shared}/data/cifar10/{{split}}.parquet"
    given = {**model, "weights": weights, "data": data, "n": 8, "probe_n": 500, "search_n": IMAGES}
    with session_in(tmp_path / "results", **given) as session:
        plan = plan_of(session, **SPACE)
        counted = Counted(monkeypatch)
        session.rank(plan.ranking)
        ranked = counted.images
        (result,) = search(session, [plan])
        assert counted.images - ranked == (1 + 3) * IMAGES
        assert result.chosen is not None
        (row,) = run_query(
            session.workspace.catalog, "SELECT count(*) AS trials, sum(seconds) AS seconds FROM trials"
        ).to_pylist()
        assert row["trials"] >= 3 * 4 * 7
        assert row["seconds"] <= 30
        chance = torch.Generator().manual_seed(0)
        for _ in range(20):
            k = int(torch.randint(1, 129, (1,), generator=chance))
            sigma, _tau, draws = plan.space.groups[int(torch.randint(3, (1,), generator=chance))]
            tau = float(10 ** (4 * torch.rand(1, generator=chance, dtype=torch.float64) - 3))
            setting = Setting(k, sigma, tau, draws)
            assert torch.equal(predictions(session, plan, setting), defended(session, plan, setting)), setting
