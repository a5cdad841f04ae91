"""Who shares the driver's storage is found out by notes in the catalog, which do not stay there."""

import os
import time
from pathlib import Path

from igd_ray.catalog import Catalog
from igd_ray.cluster.storage import SECONDS_TO_KEEP, StorageCheck, answer


def hidden(catalog: Catalog) -> set[str]:
    return {path.name for path in catalog.root.glob(".*")}


def age(catalog: Catalog, name: str, seconds: float) -> None:
    """Make a note look as old as that."""
    moment = time.time() - seconds
    os.utime(catalog.root / f".{name}", (moment, moment))


def test_a_worker_that_sees_the_note_is_confirmed_and_one_that_does_not_is_not(
    catalog: Catalog, tmp_path: Path
) -> None:
    elsewhere = Catalog(tmp_path / "elsewhere")
    elsewhere.create()
    with StorageCheck(catalog) as check:
        answer(catalog, check.ask(), 0)
        answer(elsewhere, check.ask(), 1)
        assert check.confirms(0)
        assert not check.confirms(1)
        assert not check.confirms(0), "an answer counts once"
    assert not hidden(catalog)
    assert not hidden(elsewhere)


def test_answers_that_nobody_looked_at_do_not_stay(catalog: Catalog) -> None:
    with StorageCheck(catalog) as check:
        answer(catalog, check.ask(), 0)
    assert not hidden(catalog)


def test_what_a_killed_driver_left_goes_after_a_day_and_nothing_else_does(catalog: Catalog) -> None:
    StorageCheck(catalog).__enter__()
    (left,) = catalog.notes()
    StorageCheck(catalog).__enter__()
    (fresh,) = set(catalog.notes()) - {left}
    catalog.write_note("somebody-elses", "text")
    for name in (left, "somebody-elses"):
        age(catalog, name, SECONDS_TO_KEEP + 60)
    age(catalog, fresh, SECONDS_TO_KEEP - 60)
    with StorageCheck(catalog):
        assert len(catalog.notes()) == 3
    assert set(catalog.notes()) == {fresh, "somebody-elses"}


def test_a_driver_that_runs_for_days_asks_again(catalog: Catalog) -> None:
    with StorageCheck(catalog) as check:
        (name,) = catalog.notes()
        catalog.delete_note(name)
        answer(catalog, check.ask(), 0)
        assert check.confirms(0)
    assert not hidden(catalog)
