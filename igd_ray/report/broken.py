"""Which attack broke what, and what each attack cost."""

from collections import defaultdict
from dataclasses import dataclass

from igd_ray.catalog import named_query
from igd_ray.catalog.query import Reader
from igd_ray.protocol import AUDIT_PREFIX, attack_order
from igd_ray.report.results import Rows
from igd_ray.report.tables import COSTS, Column, Row, Table

# Images that are named of each attack or group, and groups of a defense; the catalog holds the rest.
MOST_NAMED, MOST_GROUPS = 6, 5


@dataclass(frozen=True)
class Broken:
    """What the attacks of a run broke, as the queries of the same names that ship say it.

    Attributes:
        sets: `broken_by`: each set of attacks that broke an image, with the number of such images.
        attacks: `broken_by_one`: what each attack on each defense broke, and what it alone broke.
        costs: `attack_costs`: what each attack took on all defenses.
        decisive: `decisive_images`, by defense, change and the attacks that broke them: how many, and the first.
        named: of each defense and attack, the first images that this attack alone is known to have broken.
    """

    sets: Rows
    attacks: Rows
    costs: Rows
    decisive: Rows
    named: Rows


def read_broken(reader: Reader, run_id: str) -> Broken:
    """Return what the attacks of a run broke."""
    reader.keep_one("broken_by", run_id)

    def answer(query: str) -> Rows:
        return [row for row in reader.rows(named_query(query)) if row["run_id"] == run_id]

    return Broken(
        sets=answer("broken_by"),
        attacks=answer("broken_by_one"),
        costs=answer("attack_costs"),
        decisive=reader.rows(_DECISIVE, run_id, MOST_NAMED, MOST_GROUPS),
        named=reader.rows(_NAMED, run_id, MOST_NAMED),
    )


_NAMED = """
SELECT defense, attacks[1] AS attack, list(image_id ORDER BY image_id)[:$2] AS image_ids
FROM broken_by
WHERE run_id = $1 AND known AND len(attacks) = 1
GROUP BY ALL
"""


_DECISIVE = f"""
SELECT
    defense, change, broken_by, count(*) AS images,
    list(image_id ORDER BY image_id)[:$2] AS image_ids
FROM ({named_query("decisive_images")})
WHERE run_id = $1
GROUP BY defense, change, broken_by
QUALIFY row_number() OVER (PARTITION BY defense, change ORDER BY images DESC, broken_by) <= $3
ORDER BY defense, change, images DESC, broken_by
"""


def sets_of(broken: Broken) -> dict[str, Rows]:
    """Return the sets of attacks by defense, the undefended model first, each with the largest first."""
    sets: dict[str, list[Row]] = defaultdict(list)
    for row in broken.sets:
        sets[row["defense"]].append(row)
    return dict(sets)


def attacks_on(broken: Broken, defense: str) -> Rows:
    """Return what each attack on a defense broke, in the order of the attacks; of an audit's those that broke any."""
    rows = [
        row
        for row in broken.attacks
        if row["defense"] == defense and (row["broken"] != 0 or not row["attack"].startswith(AUDIT_PREFIX))
    ]
    return sorted(rows, key=lambda row: attack_order(row["attack"]))


def sole_breaker_table(broken: Broken) -> Table:
    """Return the attacks that broke an image which no other attack broke, with the first of these images."""
    named = {(row["defense"], row["attack"]): row["image_ids"] for row in broken.named}
    rows = [
        {**row, "images": ", ".join(named[row["defense"], row["attack"]]) + ", …" * (row["alone"] > MOST_NAMED)}
        for row in broken.attacks
        if row["alone"]
    ]
    columns = [
        Column("defense", "Defense"),
        Column("attack", "Attack"),
        Column("broken", "Broken", "count"),
        Column("alone", "By it alone", "count"),
        Column("images", "Images", "prose"),
    ]
    return Table(columns, rows)


def decisive_table(broken: Broken) -> Table:
    """Return the images that each defense gains or loses, by the attacks that broke them, the most first."""
    rows = [
        {
            **row,
            "change": "▲ gained" if row["change"] == "gained" else "▼ lost",
            "named": ", ".join(row["image_ids"]) + ", …" * (row["images"] > MOST_NAMED),
        }
        for row in broken.decisive
    ]
    columns = [
        Column("defense", "Defense"),
        Column("change", "Change"),
        Column("images", "Images", "count"),
        Column("broken_by", "Broken by", "prose"),
        Column("named", "Which", "prose"),
    ]
    return Table(columns, rows)


def sole_breaker_sentence(broken: Broken) -> str:
    """Return what is not known of the images that one attack alone breaks; an empty text where all is."""
    unknown = [row for row in broken.attacks if row["alone"] is None]
    if not unknown:
        return ""
    defenses = ", ".join(dict.fromkeys(row["defense"] for row in unknown))
    return (
        f"How many images an attack alone breaks is not known of {len(unknown)} of {len(broken.attacks)} attacks, on "
        f"{defenses}: the others are missing, failed, or skipped what it had broken."
    )


def attack_cost_table(broken: Broken) -> Table:
    """Return what each attack took on all defenses of a run, the dearest first."""
    columns = [
        Column("attack", "Attack"),
        Column("attacked", "Images attacked", "count"),
        Column("broken", "Broken", "count"),
        *COSTS,
        Column("passes_per_broken_image", "Passes per image broken", "number"),
    ]
    return Table(columns, broken.costs)
