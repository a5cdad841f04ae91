"""Which clean images fail under noise alone: counted, repeatable, against the closed form."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.stats import norm

from igd_ray.attacks.registry import parse_attack
from igd_ray.catalog import run_query
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.errors import InputError
from igd_ray.planning.defenses import needed_defenses
from igd_ray.planning.evaluation import run_unit
from igd_ray.threat import Norm, ThreatModel
from igd_ray.units.attack import AttackUnit
from igd_ray.units.base import Shard, execute
from igd_ray.units.checks.noise import NOISE_DRAWS, NoiseUnit
from igd_ray.units.replica import Context, ImageArrays, WorkerSetup
from tests.toys.contexts import GivenModel, shard
from tests.toys.counting import PassCounter
from tests.toys.models import Threshold
from tests.toys.runs import settings_for
from tests.toys.sessions import session_for

SIGMA = 0.1
SMOOTHING = DefenseSpec("smoothing-only", "m", "smoothing-only", sigma=SIGMA, draws=1)


def pixels(folder: Path, *values: float, repeat: int = 1) -> GivenModel:
    """Images of one pixel, all of class 1, for a model that calls a pixel over 0.5 class 1."""
    images = torch.tensor(values).repeat_interleave(repeat)[:, None, None, None]
    return GivenModel(Threshold(0.5), images, torch.ones(len(images), dtype=torch.int64), folder / "results")


def test_the_rate_is_that_of_the_normal_distribution(tmp_path: Path) -> None:
    context = pixels(tmp_path, 0.5 + SIGMA, repeat=2000)
    rows = NoiseUnit(SMOOTHING, shard(context), 0).compute(context)["noise"]
    right = [row for row in rows if row["clean_correct"]]
    asked = NOISE_DRAWS * len(right)
    expected = norm.cdf(-1)
    # Four standard deviations, of the answers and of the images that were right at first.
    assert sum(row["failures"] for row in right) / asked == pytest.approx(
        expected, abs=4 * (expected * (1 - expected) / asked) ** 0.5
    )
    assert len(right) / 2000 == pytest.approx(1 - expected, abs=4 * (expected * (1 - expected) / 2000) ** 0.5)


def test_an_image_far_from_the_boundary_never_fails_and_a_wrong_one_is_not_asked(tmp_path: Path) -> None:
    context = pixels(tmp_path, 0.0, 1.0)
    model = context.given
    rows = NoiseUnit(replace(SMOOTHING, sigma=0.01), shard(context), 0).compute(context)["noise"]
    assert [(row["image_id"], row["clean_correct"], row["draws"], row["failures"]) for row in rows] == [
        ("image-0", False, None, None),
        ("image-1", True, NOISE_DRAWS, 0),
    ]
    assert model.forwards == 2 + NOISE_DRAWS


def test_a_shard_without_a_right_image_has_rows_all_the_same(tmp_path: Path) -> None:
    context = pixels(tmp_path, 0.0, 0.1)
    report = execute(NoiseUnit(replace(SMOOTHING, sigma=0.01), shard(context), 0), context)
    assert report.error is None
    rows = run_query(context.catalog, "FROM noise").to_pylist()
    assert [(row["clean_correct"], row["failures"]) for row in rows] == [(False, None), (False, None)]


def test_right_at_first_is_what_the_outcomes_say(tmp_path: Path) -> None:
    context = pixels(tmp_path, 0.5, 0.55, repeat=50)
    threat = ThreatModel(Norm.LINF, 0.1)
    images = shard(context)
    clean = AttackUnit(SMOOTHING, parse_attack("clean"), threat, images, 3, None, 1).compute(context)["outcomes"]
    noise = NoiseUnit(SMOOTHING, images, 3).compute(context)["noise"]
    assert [row["clean_correct"] for row in noise] == [row["clean_prediction"] == row["label"] for row in clean]
    assert 0 < sum(row["clean_correct"] for row in noise) < len(noise)


def test_rows_depend_on_the_seed_and_on_nothing_else(tmp_path: Path) -> None:
    context = pixels(tmp_path, 0.5 + SIGMA, repeat=100)
    unit = NoiseUnit(SMOOTHING, shard(context), 0)
    rows = unit.compute(context)["noise"]
    torch.manual_seed(5)
    assert NoiseUnit(SMOOTHING, shard(context), 0).compute(context)["noise"] == rows
    other = NoiseUnit(SMOOTHING, shard(context), 1)
    assert other.key != unit.key
    assert [row["failures"] for row in other.compute(context)["noise"]] != [row["failures"] for row in rows]


def test_a_defense_without_randomness_is_refused(tmp_path: Path) -> None:
    context = pixels(tmp_path, 0.6)
    for still in (SMOOTHING.still(), DefenseSpec("none", "m")):
        with pytest.raises(InputError, match="needs a random defense"):
            NoiseUnit(still, shard(context), 0)


def test_the_view_puts_the_parts_of_a_unit_together(tmp_path: Path) -> None:
    context = pixels(tmp_path, 0.5 + SIGMA, repeat=101)
    unit = NoiseUnit(SMOOTHING, shard(context), 0)
    context.catalog.commit("run_units", "run", [run_unit("run", unit, "mine", None)])
    (row,) = run_query(context.catalog, "FROM noise_failures").to_pylist()
    assert (row["images"], row["n"], row["rate"]) == (101, None, None)
    parts = unit.halved()
    assert [len(part.shard.ids) for part in parts] == [51, 50]
    splits = [{"unit_key": unit.key, "part_key": part.key, "images": len(part.shard.ids)} for part in parts]
    context.catalog.commit("splits", unit.key, splits)
    rows = []
    for part in parts:
        assert execute(part, context).error is None
        rows += context.catalog.read("noise", part.key).to_pylist()
    right = [row for row in rows if row["clean_correct"]]
    (row,) = run_query(context.catalog, "FROM noise_failures").to_pylist()
    assert row["defense"] == "mine"
    assert (row["n"], row["draws"]) == (len(right), NOISE_DRAWS)
    assert row["rate"] == pytest.approx(sum(row["failures"] for row in right) / (NOISE_DRAWS * len(right)))
    assert row["failed_images"] == sum(row["failures"] > 0 for row in right) > 0
    (state,) = run_query(context.catalog, "SELECT state FROM unit_states").to_pylist()
    assert state == {"state": "done"}


def test_on_the_embedded_model_within_its_bound(tmp_path: Path) -> None:
    settings = settings_for(tmp_path / "results", defenses="loir-8", sigma=0.15, draws=2)
    with session_for(settings) as session:
        workspace = session.workspace
        resolved = needed_defenses(workspace)
        (ranking,) = resolved.rankings.values()
        session.rank(ranking)
        (defense,) = resolved.defenses
        unit = NoiseUnit(defense, Shard.of("test", workspace.test, 0, 24), 0)
        context = Context(
            WorkerSetup(workspace.source, str(workspace.catalog.root), {"test": ImageArrays.of(workspace.test)}), "cpu"
        )
        counter = PassCounter(context.model.conv1)
        assert execute(unit, context).error is None
    assert len(workspace.catalog.read("noise", unit.key)) == 24
    forwards, backwards = unit.most_passes(10)
    assert 0 < counter.forwards <= forwards
    assert counter.backwards == backwards == 0
