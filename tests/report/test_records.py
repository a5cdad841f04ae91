"""Records that others read: a leaderboard entry, an evaluation card, verdicts as CSV, points as files."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from igd_ray.catalog import Catalog
from igd_ray.catalog.query import Reader, ask
from igd_ray.data.points import load_points
from igd_ray.report.records.card import evaluation_card
from igd_ray.report.records.images import (
    Kept,
    Points,
    broken_rows,
    csv_of,
    file_name,
    kept_points,
    png_of,
    points_npz,
    read_points,
    verdict_table,
)
from igd_ray.report.records.leaderboard import leaderboard_entry
from igd_ray.report.results import Results, find_run, read_results
from igd_ray.report.texts import markdown
from tests.report.conftest import IMAGES
from tests.toys.catalog_rows import add_outcomes, add_plan, add_run, row


@pytest.fixture(scope="module")
def results(filled: Catalog) -> Results:
    return ask(filled, lambda reader: read_results(reader, find_run(reader, None)))


@pytest.fixture(scope="module")
def verdicts(filled: Catalog) -> list[dict[str, str]]:
    text = ask(filled, lambda reader: csv_of(verdict_table(reader, "run"))).decode()
    return list(csv.DictReader(io.StringIO(text)))


def test_an_entry_has_the_fields_of_robustbench_and_the_run_s_numbers(results: Results) -> None:
    entry = leaderboard_entry(results, "loir-12")
    assert list(entry)[:15] == [
        "link",
        "name",
        "authors",
        "additional_data",
        "number_forward_passes",
        "dataset",
        "venue",
        "architecture",
        "eps",
        "clean_acc",
        "reported",
        "autoattack_acc",
        "external",
        "footnote",
        "unreliable",
    ]
    # Of 40 images 3 are misclassified, and 26 withstand every attack.
    assert (entry["clean_acc"], entry["external"], entry["eps"]) == ("92.50", "65.00", "8/255")
    assert entry["footnote"] == "65.00% robust accuracy is the image-wise worst case over 3 attacks on 40 images"
    assert (entry["igd"]["claim"], entry["igd"]["gain"]) == ("gain", pytest.approx(18 / 40))
    assert json.loads(json.dumps(entry)) == entry


def test_what_was_not_measured_is_null_in_an_entry_and_never_zero(results: Results) -> None:
    failed, unfinished = leaderboard_entry(results, "cdir-12"), leaderboard_entry(results, "hedge")
    for entry in (failed, unfinished):
        assert (entry["external"], entry["footnote"], entry["igd"]["worst_case"]) == (None, None, None)
        assert (entry["igd"]["worst_case_95"], entry["igd"]["claim"], entry["igd"]["gain"]) == (None, None, None)
    assert failed["autoattack_acc"] is None
    assert unfinished["autoattack_acc"] is not None
    assert unfinished["igd"]["robust_accuracy"]["rays-1000"] is None
    assert all(leaderboard_entry(results, "none")[name] is None for name in ("link", "authors", "venue", "reported"))


def test_the_card_says_what_was_measured_how_surely_and_what_was_not(results: Results) -> None:
    card = evaluation_card(results, {"verdicts.csv": "0123"})
    titles = re.findall(r"^## (.+)$", card, re.MULTILINE)
    assert titles == [
        "Results",
        "Attacks and what they spent",
        "Settings of the defenses",
        "Remarks",
        "Checks",
        "What was not measured",
        "Hashes",
        "Software",
    ]
    assert "- **Threat model:** linf, ε = 8/255" in card
    assert "- loir-12 gains 45.0 points: 65.0 % against 20.0 % of 40 images (20 images gained, 2 lost" in card
    assert (
        "| loir-12 | 65.0 % (49.5–77.9) | +45.0 | ▲ gain (p = 0.00012, Holm: 0.00024) | 92.5 % (80.1–97.4) | 40 |"
        in card
    )
    assert "| hedge | – (not finished) | – | – (not finished, or nothing to compare with) | 92.5 %" in card
    assert "| rays-1000 | hedge | – (40 of 40 missing) |" in card
    assert "- gradients averaged over the noise" in card
    assert "- **SHA-256 of verdicts.csv:** 0123" in card


def test_what_the_catalog_holds_is_text_in_the_card(results: Results) -> None:
    card = evaluation_card(results, {})
    assert "<" not in card
    assert r"&lt;b&gt;bold&lt;/b&gt; &amp; \$x\$" in card
    assert markdown("a\nb | [c](d)") == r"a b \| \[c\](d)"


def test_every_row_of_a_table_in_the_card_has_as_many_cells_as_its_header(results: Results) -> None:
    tables = re.findall(r"(?:^\|.*\n)+", evaluation_card(results, {}), re.MULTILINE)
    assert len(tables) == 4
    for table in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1, table


def test_the_csv_has_a_row_for_each_planned_verdict_and_leaves_unmeasured_ones_empty(
    verdicts: list[dict[str, str]],
) -> None:
    assert len(verdicts) == 5 * 3 * len(IMAGES)
    statuses = {(each["defense"], each["attack"]): set[str]() for each in verdicts}
    for each in verdicts:
        statuses[each["defense"], each["attack"]].add(each["status"])
    assert statuses["hedge", "rays-1000"] == {""}
    assert statuses["cdir-12", "aa"] == {"error"}
    assert statuses["none", "tr-aa"] == {"misclassified", "robust", "broken", "skipped"}
    robust = sum(each["status"] == "robust" for each in verdicts if (each["defense"], each["attack"]) == ("none", "aa"))
    assert robust == 8
    assert {each["distance"] for each in verdicts if not each["status"]} == {""}


IDS = ["i0", "i1", "i2"]


@pytest.fixture
def pointed(tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """A run of an attack and its transfer on two defenses: the points of both transfers are the undefended model's."""
    catalog = Catalog(tmp_path_factory.mktemp("pointed") / "results")
    catalog.create()
    add_run(catalog, n=3)
    cells = [("none", "aa"), ("none", "tr-aa"), ("loir-8", "aa"), ("loir-8", "tr-aa")]
    add_plan(catalog, {f"{d}-{a}": (d, a, IDS) for d, a in cells})
    statuses = dict(zip(IDS, ("robust", "broken", "broken"), strict=True))
    for defense, attack in cells:
        add_outcomes(catalog, f"{defense}-{attack}", defense, attack, statuses)
    for key, ids, shade in (("loir-8-aa", IDS[1:], 0.25), ("none-tr-aa", IDS, 0.75)):
        points = [
            row("adversarials", unit_key=key, image_id=each, point="returned", shape=[1, 2, 2], pixels=[shade] * 4)
            for each in ids
        ]
        catalog.commit("adversarials", key, points)
    return catalog


def test_a_transfer_s_points_are_those_of_the_attack_on_the_undefended_model(pointed: Catalog) -> None:
    def question(reader: Reader) -> tuple[list[Kept], list[Points]]:
        kept = kept_points(reader, "run")
        return kept, [read_points(reader, "run", each) for each in kept]

    kept, points = ask(pointed, question)
    assert [(each.defense, each.attack, each.images) for each in kept] == [
        ("loir-8", "aa", 2),
        ("loir-8", "tr-aa", 3),
        ("none", "tr-aa", 3),
    ]
    assert [each.ids for each in points] == [IDS[1:], IDS, IDS]
    assert [float(each.pixels[0, 0, 0, 0]) for each in points] == [0.25, 0.75, 0.75]
    assert [list(broken_rows(each)) for each in points] == [[0, 1], [1, 2], [1, 2]]


def test_an_npz_holds_ids_and_labels_and_is_read_as_points_of_others(tmp_path: Path) -> None:
    points = Points(["a", "b"], [3, None], ["broken", "robust"], np.full((2, 3, 2, 2), 0.5, dtype=np.float32))
    file = tmp_path / "returned.npz"
    file.write_bytes(points_npz(points))
    assert np.array_equal(load_points(file), points.pixels)
    with np.load(file, allow_pickle=False) as archive:
        assert archive["ids"].tolist() == ["a", "b"]
        assert archive["labels"].tolist() == [3, -1]
        assert archive["statuses"].tolist() == ["broken", "robust"]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_has_the_nearest_grey_levels(channels: int) -> None:
    pixels = np.zeros((channels, 1, 4), dtype=np.float32)
    pixels[0, 0] = [0.0, 0.4 / 255, 100.6 / 255, 1.0]
    content = png_of(pixels)
    assert content is not None
    image = np.asarray(Image.open(io.BytesIO(content)))
    assert (image if channels == 1 else image[..., 0]).tolist() == [[0, 0, 101, 255]]
    assert png_of(np.zeros((2, 4, 4), dtype=np.float32)) is None


def test_no_label_leads_out_of_the_folder_or_to_another_s_file() -> None:
    assert file_name("tr-apgd-ce") == "tr-apgd-ce"
    hostile = ["..", ".", "", "../x", "/etc", "a/b", "a_b", "a\\b", "x" * 300, "x" * 301, "é", ".hidden"]
    names = [file_name(label) for label in hostile]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*", name) and len(name) < 100 for name in names)
