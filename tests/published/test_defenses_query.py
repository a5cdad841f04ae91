"""The query behind the table of defenses: every image once, whatever runs it was part of."""

import duckdb
import pyarrow as pa

from tests.published.published import REPOSITORY


def row(defense: str, attack: str, image: int, status: str, run: str, epsilon: float = 0.1) -> dict[str, object]:
    clean = 1 if status == "misclassified" else 0
    names = {"model_id": "m", "dataset": "d", "defense": defense, "defense_id": defense, "run_id": run}
    names |= {"norm": "linf", "epsilon": epsilon}
    return {**names, "attack": attack, "image_id": str(image), "label": 0, "clean_prediction": clean, "status": status}


def table_row(
    defense: str,
    *,
    eps: float,
    n: int,
    clean: float,
    transferred: float | None,
    won: int = 0,
    lost: int = 0,
    direct: tuple[int | None, float | None] = (None, None),
) -> dict[str, object]:
    start = {"defense": defense, "eps": eps, "n": n, "clean": clean, "tr-aa": transferred, "won": won, "lost": lost}
    return {**start, "n (aa)": direct[0], "aa": direct[1]}


def test_the_query_over_all_defenses_counts_each_image_once() -> None:
    undefended = ["robust", "broken", "broken", "misclassified"]
    defended = ["broken", "robust", "broken", "robust"]
    outcomes = [
        row(defense, "tr-aa", image, status, "first")
        for defense, statuses in (("none", undefended), ("loir-8", defended))
        for image, status in enumerate(statuses)
    ]
    outcomes += [{**outcome, "run_id": "second"} for outcome in outcomes if outcome["image_id"] in "01"]
    outcomes += [row("loir-8", "aa", image, status, "second") for image, status in enumerate(["robust", "broken"])]
    outcomes += [row("loir-8", "square", 0, "broken", "second")]
    # Another eps is another table, and an image that failed has no share.
    outcomes += [row("none", "tr-aa", image, status, "third", 0.2) for image, status in enumerate(["broken", "error"])]
    connection = duckdb.connect()
    connection.from_arrow(pa.Table.from_pylist(outcomes)).create_view("outcomes")
    sql = (REPOSITORY / "catalog" / "queries" / "defenses.sql").read_text()
    assert connection.sql(sql).to_arrow_table().to_pylist() == [
        table_row("none", eps=0.1, n=4, clean=0.75, transferred=0.25),
        table_row("loir-8", eps=0.1, n=4, clean=1.0, transferred=0.5, won=2, lost=1, direct=(2, 0.5)),
        table_row("none", eps=0.2, n=2, clean=1.0, transferred=None),
    ]
