"""Which attack broke a defense: by hand on sets of attacks, from the rows of a run, and where people read it."""

import html
from collections.abc import Mapping
from pathlib import Path

import pytest

from igd_ray.catalog import Catalog
from igd_ray.catalog.query import ask
from igd_ray.report.html import write_report
from igd_ray.report.results import find_run, read_results
from igd_ray.report.sentences import fall_sentence, fall_sentences
from igd_ray.verbs.evaluate import show_accuracy
from tests.toys.catalog_rows import add_failure, add_plan, add_run, outcome

IMAGES = "abcdefgh"
STATUS = {"r": "robust", "b": "broken", "m": "misclassified", "s": "skipped"}

# What each attack left of the eight images.
FULL = {
    ("none", "aa"): "bbbbbbrm",
    ("none", "rays"): "bbbbbbbm",
    ("mine", "aa"): "rrrrrrbm",
    ("mine", "rays"): "brrrrrbm",
    ("mine", "tr-aa"): "bbrrrrrm",
    ("mine", "audit-bpda"): "ssbbrrsm",
    ("strong", "aa"): "brrrrrrm",
    ("strong", "tr-aa"): "brrrrrrm",
    ("failed", "aa"): "rrrrrrrm",
    ("failed", "audit-bpda"): "",
}
CASCADE = {("mine", "aa"): "ssrrrrbm", ("mine", "tr-aa"): "bbrrrrrm", ("mine", "rays"): "ssbrrrsm"}


def sentences(catalog: Catalog, units: Mapping[tuple[str, str], str]) -> list[str]:
    add_run(catalog, n=len(IMAGES))
    add_plan(catalog, {f"{d}-{a}": (d, a, IMAGES) for d, a in units})
    for (defense, attack), found in units.items():
        key = f"{defense}-{attack}"
        if not found:
            add_failure(catalog, key)
            continue
        rows = [outcome(key, defense, attack, image, STATUS[x]) for image, x in zip(IMAGES, found, strict=True)]
        catalog.commit("outcomes", key, rows)
    return ask(catalog, lambda reader: fall_sentences(read_results(reader, find_run(reader, None))))


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ([([], 3), (["aa"], 5)], None),
        (
            [([], 8), (["aa"], 8), (["audit-bpda"], 16)],
            "mine falls from 75.0 % under aa to 25.0 %: audit-bpda breaks 16 images that aa leaves.",
        ),
        # The first in order has an image: RayS the second one, though the audit breaks it, too.
        (
            [([], 1), (["audit-bpda", "rays"], 2), (["aa", "audit-bpda"], 1)],
            "mine falls from 75.0 % under aa to 25.0 %: rays breaks 2 images that aa leaves.",
        ),
        (
            [([], 1), (["rays"], 1), (["audit-bpda"], 2)],
            "mine falls from 100.0 % under aa to 25.0 %: rays breaks 1 image that aa leaves, audit-bpda 2 more.",
        ),
    ],
)
def test_an_image_is_of_the_first_attack_that_breaks_it(
    images: list[tuple[list[str], int]], expected: str | None
) -> None:
    assert fall_sentence("mine", ["aa", "rays", "audit-bpda"], images) == expected


def test_a_full_run_counts_from_its_direct_attack(catalog: Catalog) -> None:
    # g is broken under aa, a under RayS, b under the transfer, c and d under the audit; `strong` does not fall, and of
    # `failed` the worst case is not known.
    assert sentences(catalog, FULL) == [
        "mine falls from 75.0 % under aa to 25.0 %: rays breaks 1 image that aa leaves, tr-aa 1 more, "
        "audit-bpda 2 more."
    ]


def test_a_cascade_counts_from_the_attack_that_ran_first(catalog: Catalog) -> None:
    assert sentences(catalog, CASCADE) == [
        "mine falls from 62.5 % under tr-aa to 37.5 %: aa breaks 1 image that tr-aa leaves, rays 1 more."
    ]


def test_it_is_printed_and_stands_in_the_report(
    catalog: Catalog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sentence,) = sentences(catalog, FULL)
    show_accuracy(catalog, "run", as_json=False)
    assert sentence in capsys.readouterr().out.splitlines()
    page = write_report(catalog, None, tmp_path / "report.html")
    assert html.escape(sentence) in page.read_text()
