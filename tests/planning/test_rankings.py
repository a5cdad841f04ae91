"""Rankings from units equal rankings in one piece, and are complete or an error."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from igd_ray.catalog import run_query
from igd_ray.errors import IncompleteError, InputError
from igd_ray.execution.session import Session
from igd_ray.models.clip import load_clip
from igd_ray.planning.rankings import RankingPlan, finish_ranking, import_ranking, plan_ranking
from igd_ray.ranking import clip_dissect, leave_one_out
from igd_ray.units.base import shards_of
from igd_ray.units.ranking import read_ranking
from tests.toys.runs import settings_for
from tests.toys.sessions import session_for


def sharded(session: Session, method: str, size: int) -> RankingPlan:
    """The workspace's ranking, in shards of another size."""
    return replace(plan_ranking(session.workspace, method), shards=shards_of("probe", session.workspace.probe, size))


@pytest.fixture
def session(tmp_path: Path):
    with session_for(settings_for(tmp_path / "results")) as opened:
        yield opened


def test_loir_from_shards_equals_one_piece(session: Session) -> None:
    plan = sharded(session, "loir", 60)
    assert len(plan.units) == 4
    session.rank(plan)
    expected = leave_one_out(session.workspace.model, session.workspace.probe)
    torch.testing.assert_close(
        read_ranking(session.workspace.catalog, plan.ranking_id).scores, expected.scores, rtol=1e-5, atol=1e-8
    )


def test_loir_of_a_convolutional_layer_is_cut_into_neuron_shards(tmp_path: Path) -> None:
    with session_for(settings_for(tmp_path / "results", layer="layer2", probe_n=60)) as session:
        plan = plan_ranking(session.workspace, "loir")
        assert [unit.neurons for unit in plan.units] == [range(32)]
        cut = replace(plan, ranking=replace(plan.ranking, unit_neurons=20))
        assert [unit.neurons for unit in cut.units] == [range(20), range(20, 32)]
        session.rank(cut)
        expected = leave_one_out(session.workspace.model, session.workspace.probe, layer="layer2")
        found = read_ranking(session.workspace.catalog, cut.ranking_id)
        torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=2e-6)


def test_loir_before_a_linear_rest_of_the_model_is_one_unit_a_shard_of_images(tmp_path: Path) -> None:
    with session_for(settings_for(tmp_path / "results", layer="layer3", probe_n=60)) as session:
        plan = plan_ranking(session.workspace, "loir")
        cut = replace(plan, ranking=replace(plan.ranking, unit_neurons=20))
        assert [unit.neurons for unit in cut.units] == [range(64)]


@pytest.mark.parametrize("options", [{"every_class": True}, {"signed": True}])
def test_the_options_of_loir_are_those_of_the_function_and_another_ranking(
    session: Session, tmp_path: Path, options: dict[str, bool]
) -> None:
    with session_for(settings_for(tmp_path / "results", **options)) as other:
        plan = plan_ranking(other.workspace, "loir")
        assert plan.ranking_id != plan_ranking(session.workspace, "loir").ranking_id
        other.rank(plan)
        expected = leave_one_out(session.workspace.model, session.workspace.probe, **options)
        found = read_ranking(other.workspace.catalog, plan.ranking_id)
        torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-6)
        assert found.details[next(iter(options))] is True


def test_cdir_from_shards_equals_one_piece(session: Session) -> None:
    plan = sharded(session, "cdir", 70)
    session.rank(plan)
    expected = clip_dissect(session.workspace.model, session.workspace.probe, load_clip("demo"))
    torch.testing.assert_close(
        read_ranking(session.workspace.catalog, plan.ranking_id).scores, expected.scores, rtol=1e-4, atol=1e-4
    )


def test_cdir_with_templates_and_another_similarity_is_what_the_function_gives(tmp_path: Path) -> None:
    templates = ("a {}.", "the number {}")
    options = {"defenses": "cdir-8", "prompt_template": templates, "similarity": "wpmi"}
    with session_for(settings_for(tmp_path / "results", **options)) as session:
        plan = plan_ranking(session.workspace, "cdir")
        session.rank(plan)
        expected = clip_dissect(
            session.workspace.model, session.workspace.probe, load_clip("demo"), templates=templates, similarity="wpmi"
        )
        found = read_ranking(session.workspace.catalog, plan.ranking_id)
        torch.testing.assert_close(found.scores, expected.scores, rtol=1e-4, atol=1e-4)
        assert found.details["prompts"][0] == ["a zero.", "the number zero"]  # type: ignore[index]


def test_image_embeddings_are_computed_once_for_all_layers(session: Session, tmp_path: Path) -> None:
    first = plan_ranking(session.workspace, "cdir")
    session.rank(first)
    with session_for(settings_for(tmp_path / "results", layer="layer2")) as other:
        second = plan_ranking(other.workspace, "cdir")
        summary = other.run(second.units, "rank")
    kinds = [unit.kind for unit in second.units if unit.key not in {unit.key for unit in first.units}]
    assert kinds == ["pooled-activations"]
    assert (summary.reused, summary.computed) == (2, 1)


def test_prompts_come_from_a_file_and_must_be_one_a_class(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    with session_for(settings_for(tmp_path / "results")) as session:
        texts = [f"the number {name}" for name in session.workspace.class_names]
    prompts.write_text("\n".join(texts))
    with session_for(settings_for(tmp_path / "results", defenses="cdir-8", prompts=str(prompts))) as session:
        assert plan_ranking(session.workspace, "cdir").ranking.options["prompts"] == [[text] for text in texts]
    prompts.write_text("one\ntwo\n")
    with (
        session_for(settings_for(tmp_path / "results", defenses="cdir-8", prompts=str(prompts))) as session,
        pytest.raises(InputError, match="expected 10 prompts, one for each class, got 2"),
    ):
        plan_ranking(session.workspace, "cdir")
    with (
        session_for(
            settings_for(tmp_path / "results", defenses="cdir-8", prompts=str(tmp_path / "none.txt"))
        ) as session,
        pytest.raises(InputError, match="expected a file of prompts, one on each line; no file at"),
    ):
        plan_ranking(session.workspace, "cdir")


def test_a_ranking_saved_by_the_authors_scripts_is_imported_whole(session: Session, tmp_path: Path) -> None:
    folder = tmp_path / "layer4"
    folder.mkdir()
    scores = torch.rand(10, 64).float()
    for neuron in range(64):
        np.save(folder / f"unit{neuron}.npy", scores[:, neuron].numpy())
    plan = import_ranking(session.workspace, "loir", str(folder))
    session.rank(plan)
    found = read_ranking(session.workspace.catalog, plan.ranking_id)
    assert torch.equal(found.scores, scores.double())
    assert found.method == "loir"
    (folder / "unit17.npy").unlink()
    with pytest.raises(InputError, match="17"):
        import_ranking(session.workspace, "loir", str(folder))


def test_a_random_ranking_is_the_same_again_and_another_with_another_seed(session: Session, tmp_path: Path) -> None:
    plan = plan_ranking(session.workspace, "random")
    session.rank(plan)
    again = finish_ranking(session.workspace.catalog, plan)
    torch.testing.assert_close(
        read_ranking(session.workspace.catalog, plan.ranking_id).scores, again.scores, rtol=0, atol=0
    )
    with session_for(settings_for(tmp_path / "results", seed=1)) as other:
        assert not torch.equal(
            finish_ranking(other.workspace.catalog, plan_ranking(other.workspace, "random")).scores, again.scores
        )


def test_a_ranking_that_lacks_a_unit_is_an_error(session: Session) -> None:
    plan = sharded(session, "loir", 60)
    session.run(plan.units[:-1], "rank")
    with pytest.raises(IncompleteError, match="lacks 1 of 4 units"):
        finish_ranking(session.workspace.catalog, plan)
    assert not session.workspace.catalog.has("rankings", plan.ranking_id)


def test_a_probe_set_without_a_class_is_refused(tmp_path: Path) -> None:
    with (
        session_for(settings_for(tmp_path / "results", probe_n=5)) as session,
        pytest.raises(InputError, match="the probe set has no image of 5 of 10 classes"),
    ):
        session.rank(plan_ranking(session.workspace, "loir"))


def test_cdir_with_fewer_probe_images_than_it_looks_at_is_refused(tmp_path: Path) -> None:
    with (
        session_for(settings_for(tmp_path / "results", probe_n=99)) as session,
        pytest.raises(InputError, match="top 100 images, but the probe set has 99"),
    ):
        session.rank(plan_ranking(session.workspace, "cdir"))


def test_the_rankings_view_has_every_neuron_of_every_class_with_its_rank(session: Session) -> None:
    plan = plan_ranking(session.workspace, "loir")
    session.rank(plan)
    scores = read_ranking(session.workspace.catalog, plan.ranking_id)
    table = run_query(session.workspace.catalog, "SELECT * FROM rankings ORDER BY class_id, neuron").to_pylist()
    assert len(table) == 10 * 64
    assert [row["rank"] for row in table] == scores.ranks().flatten().tolist()
    assert {row["probe_images"] for row in table} == {200}
    assert table[0]["class_name"] == "zero"
