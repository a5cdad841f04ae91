"""A unit's rows are of one attempt, however many workers compute it and wherever they are interrupted."""

import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import pytest

from igd_ray.catalog import Catalog
from igd_ray.catalog.compaction import compact
from igd_ray.catalog.places import Folder
from tests.toys.catalog_rows import outcome, row

TABLES = ("adversarials", "outcomes")


def rows_of(attempt: int, key: str = "u") -> dict[str, list[dict[str, object]]]:
    """What one attempt computes: its points and its verdicts have its number."""
    points = {"unit_key": key, "image_id": "a", "point": "returned", "shape": [1], "pixels": [float(attempt)]}
    return {
        "adversarials": [row("adversarials", **points)],
        "outcomes": [outcome(key, "none", "aa", "a", "robust", attempt=attempt)],
    }


def attempts_of(catalog: Catalog, key: str = "u") -> tuple[int, int]:
    """The attempts that the points and the verdicts of a unit are of."""
    return int(catalog.read("adversarials", key)["pixels"][0][0].as_py()), catalog.read("outcomes", key)["attempt"][
        0
    ].as_py()


def compute(root: Path, attempt: int, keys: Sequence[str], barrier, won) -> None:  # type: ignore[no-untyped-def]
    catalog = Catalog(root)
    for key in keys:
        barrier.wait()  # both have computed the unit, and commit it now
        won.put((key, attempt, catalog.commit_unit(key, rows_of(attempt, key))))


def test_of_two_processes_that_commit_one_unit_the_first_writes_all_of_it(catalog: Catalog) -> None:
    context = multiprocessing.get_context("fork")
    keys = [f"u{number}" for number in range(30)]
    barrier, won = context.Barrier(2), context.Queue()
    processes = [context.Process(target=compute, args=(catalog.root, n, keys, barrier, won)) for n in (1, 2)]
    for process in processes:
        process.start()
    answers = [won.get(timeout=60) for _ in range(2 * len(keys))]
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    for key in keys:
        winners = [attempt for of, attempt, first in answers if of == key and first]
        assert len(winners) == 1
        assert attempts_of(catalog, key) == (winners[0], winners[0])


def test_a_second_attempt_at_a_finished_unit_changes_nothing(catalog: Catalog) -> None:
    assert catalog.commit_unit("u", rows_of(1))
    assert not catalog.commit_unit("u", rows_of(2))
    assert attempts_of(catalog) == (1, 1)


class Killed(BaseException):
    """The worker dies."""


def die_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Have the worker die in its `step`-th write."""
    count = [0]
    for method in ("create", "write"):
        whole = getattr(Folder, method)

        def counted(self: Folder, name: str, content: bytes, whole=whole) -> object:  # type: ignore[no-untyped-def]
            count[0] += 1
            if count[0] == step:
                raise Killed
            return whole(self, name, content)

        monkeypatch.setattr(Folder, method, counted)


@pytest.mark.parametrize("step", [1, 2])
def test_what_a_killed_worker_left_is_finished_without_computing_or_replaced_whole(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    with monkeypatch.context() as patched:
        die_at(patched, step)
        with pytest.raises(Killed):
            catalog.commit_unit("u", rows_of(1))
    assert catalog.whole("outcomes", ["u"]) == set()
    # Points were written in the first step, with the verdicts in them.
    assert catalog.finish_unit(TABLES, "u") == (step == 2)
    assert catalog.commit_unit("u", rows_of(2)) == (step == 1)
    assert attempts_of(catalog) == ((2, 2) if step == 1 else (1, 1))


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("damaged", TABLES)
def test_where_one_file_is_damaged_the_unit_is_of_one_attempt_again(
    catalog: Catalog, damaged: str, merged: bool
) -> None:
    for number in range(3):
        catalog.commit_unit(f"u{number}", rows_of(1, f"u{number}"))
    if merged:
        for _ in range(2):
            compact(Catalog(catalog.root), keep_seconds=0, settle_seconds=0)
    (file, *_) = sorted((catalog.root / damaged).glob("_merged-*" if merged else "u1.parquet"))
    content = file.read_bytes()
    file.write_bytes(content[:30] + bytes([content[30] ^ 4]) + content[31:])
    fresh = Catalog(catalog.root)
    assert fresh.whole(damaged, ["u1"]) == set()
    if damaged == "outcomes" and not merged:
        assert fresh.finish_unit(TABLES, "u1"), "the points have the verdicts with them"
        assert attempts_of(fresh, "u1") == (1, 1)
        return
    assert not fresh.finish_unit(TABLES, "u1")
    assert fresh.commit_unit("u1", rows_of(2, "u1"))
    for reader in (fresh, Catalog(catalog.root)):
        assert attempts_of(reader, "u1") == (2, 2)
    for _ in range(2):
        compact(Catalog(catalog.root), keep_seconds=0, settle_seconds=0)
    assert attempts_of(Catalog(catalog.root), "u1") == (2, 2)


def test_points_of_a_version_without_verdicts_in_them_are_replaced(catalog: Catalog) -> None:
    catalog.commit("adversarials", "u", rows_of(1)["adversarials"])
    assert not catalog.finish_unit(TABLES, "u")
    assert catalog.commit_unit("u", rows_of(2))
    assert attempts_of(catalog) == (2, 2)


def test_verdicts_of_another_attempt_are_replaced_by_those_of_the_points(catalog: Catalog) -> None:
    """As where a synchronising tool brought one of a unit's files."""
    other = Catalog(catalog.root.parent / "other")
    other.create()
    other.commit_unit("u", rows_of(2))
    catalog.commit_unit("u", rows_of(1))
    (catalog.root / "outcomes" / "u.parquet").write_bytes((other.root / "outcomes" / "u.parquet").read_bytes())
    assert attempts_of(catalog) == (1, 2)
    assert catalog.finish_unit(TABLES, "u")
    assert attempts_of(catalog) == (1, 1)
