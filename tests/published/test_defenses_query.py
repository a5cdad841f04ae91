"""The query behind the table of defenses: every image once, whatever runs it was part of."""

import duckdb
import pyarrow as pa
from published import REPOSITORY


def row(defense: str, attack: str, image: int, status: str, run: str) -> dict[str, object]:
    clean = 1 if status == "misclassified" else 0
    names = {"model": "m", "dataset": "d", "defense": defense, "defense_id": defense, "run_id": run}
    return {**names, "attack": attack, "image_id": str(image), "label": 0, "clean_prediction": clean, "status": status}


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
    connection = duckdb.connect()
    connection.from_arrow(pa.Table.from_pylist(outcomes)).create_view("outcomes")
    sql = (REPOSITORY / "catalog" / "queries" / "defenses.sql").read_text()
    assert connection.sql(sql).to_arrow_table().to_pylist() == [
        {"defense": "none", "n": 4, "clean": 0.75, "tr-aa": 0.25, "won": 0, "lost": 0, "n (aa)": None, "aa": None},
        {"defense": "loir-8", "n": 4, "clean": 1.0, "tr-aa": 0.5, "won": 2, "lost": 1, "n (aa)": 2, "aa": 0.5},
    ]
