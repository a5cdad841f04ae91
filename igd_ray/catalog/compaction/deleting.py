"""Deleting what was merged, and what merges left behind."""

from igd_ray.catalog.merged import INDEX, number_of
from igd_ray.catalog.schemas import SCHEMAS
from igd_ray.catalog.store import Catalog
from igd_ray.catalog.tables import QUARANTINE


def delete_merged(catalog: Catalog, keep_seconds: float) -> int:
    """Delete files that have not counted for `keep_seconds`, each if what counts instead is undamaged."""
    log, deleted = catalog.merged, 0
    old = {number for number in log.numbers() if catalog.place.age(f"{INDEX}/{number:08d}.parquet") >= keep_seconds}
    for table in SCHEMAS:
        if table == INDEX:
            continue
        places = log.of(table)
        sound = set()
        # Those from before there were numbers are old, too.
        for file in sorted({where.file for where in places.values() if number_of(where.file) in {*old, None}}):
            if catalog.tables.is_sound(table, file):
                sound.add(file)
            else:
                catalog.tables.set_aside(table, file)
                log.forget()
        places = log.of(table)
        for key in sorted(catalog.tables.keys(table)):
            if key in places and places[key].file in sound:
                catalog.place.delete(f"{table}/{key}.parquet")
                deleted += 1
        _delete_abandoned(catalog, table, old)
    return deleted


def _delete_abandoned(catalog: Catalog, table: str, old: set[int]) -> None:
    """Delete the merged files of `table` that never counted and never will, or whose results are in later ones."""
    log = catalog.merged
    counting = {where.file for where in log.of(table).values()}
    # From the listing that `counting` is from: what a merge announces from now on is in neither.
    announced = log.announced()
    for file in catalog.tables.names(table):
        number = number_of(file)
        if number not in old or file in counting or catalog.tables.is_left_out(table, file):
            continue
        files = announced.get(number)
        if files is None or (f"{table}/{file}" in files and max(announced) not in old):
            continue
        if f"{number:08d}.parquet" not in catalog.place.names(f"{QUARANTINE}/{INDEX}"):
            catalog.place.delete(f"{table}/{file}")
