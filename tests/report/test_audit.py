"""The audit, where people read it: what it leaves of each gain, and what each of its attacks found."""

import html
import io
import json
import re
from collections.abc import Mapping
from dataclasses import replace

import pytest
from rich.console import Console

from igd_ray.catalog import Catalog
from igd_ray.catalog.query import ask
from igd_ray.protocol import (
    AUDIT_ATTACKS,
    NINE_ATTACKS,
    NOT_MEASURED,
    idea_note,
)
from igd_ray.report.html import write_report
from igd_ray.report.results import PrintedTable, Results, accuracy_rows, accuracy_tables, find_run, read_results
from igd_ray.report.sentences import audit_sentence, audit_sentences, unmeasured
from igd_ray.report.tables import print_table
from igd_ray.statistics import Comparison
from igd_ray.verbs.evaluate import show_accuracy
from tests.toys.catalog_rows import add_failure, add_plan, add_run, outcome, row

IMAGES = [f"{index:02d}" for index in range(20)]

IDEAS = {
    "audit-joint-loss": "APGD on two losses: that of the first pass, and the final one.",
    "audit-square-eot-500": "Square on mean margins.",
}

# What each attack left of the 20 images; the last is misclassified, and each attack skips what was broken before it.
CHAINS: dict[str, list[tuple[str, set[int]]]] = {
    "none": [("aa", set(range(5, 19))), ("tr-aa", set()), ("audit-line", {0})],
    "loir-2": [
        ("aa", {16, 17, 18}),
        ("tr-aa", {14, 15}),
        ("audit-joint-loss", {5, 6, 7, 8}),
        ("audit-line", {9}),
    ],
    "hedge": [("aa", {16, 17, 18}), ("tr-aa", set()), ("audit-square-eot-500", {15})],
    "anti-adversary": [("aa", {7, *range(9, 19)}), ("tr-aa", {8})],
}


def commit_chain(catalog: Catalog, defense: str, chain: list[tuple[str, set[int]]]) -> None:
    """Commit the outcomes of attacks that come one after the other."""
    standing = set(range(19))
    for attack, broken in chain:
        rows = []
        for index, image in enumerate(IMAGES):
            left = "broken" if index in broken else "robust" if index in standing else "skipped"
            rows.append(
                outcome(f"{defense}-{attack}", defense, attack, image, "misclassified" if index == 19 else left)
            )
        catalog.commit("outcomes", f"{defense}-{attack}", rows)
        assert broken <= standing
        standing -= broken


@pytest.fixture
def audited(catalog: Catalog) -> Catalog:
    """An audit that undoes one gain and leaves another, with a defense that it does not fit and one not finished."""
    add_run(catalog, n=20, notes=[idea_note(attack, idea) for attack, idea in IDEAS.items()])
    chains = {**CHAINS, "cdir-2": [("aa", {17, 18}), ("tr-aa", set()), ("audit-oracle-mask", set())]}
    plan = {f"{d}-{a}": (d, a, IMAGES) for d, chain in chains.items() for a, _ in chain}
    add_plan(catalog, plan)
    for defense, chain in chains.items():
        commit_chain(catalog, defense, chain[:2] if defense == "cdir-2" else chain)
    return catalog


def _results(catalog: Catalog) -> Results:
    return ask(catalog, lambda reader: read_results(reader, find_run(reader, "run")))


def _tables(catalog: Catalog) -> list[PrintedTable]:
    return accuracy_tables(_results(catalog))


def _printed(table: PrintedTable, *, terminal: bool) -> list[str]:
    file = io.StringIO()
    print_table(table.rows, console=Console(file=file, force_terminal=terminal, width=120, color_system=None))
    return file.getvalue().splitlines()


def test_scripts_get_the_worst_case_before_and_after_and_the_counts(audited: Catalog) -> None:
    rows = accuracy_rows(_results(audited))
    assert [each["defense"] for each in rows] == ["none", "anti-adversary", "cdir-2", "hedge", "loir-2"]
    none, anti, cdir, hedge, loir = rows
    # 0–4 of 20 stand on the undefended model, 1–4 after the audit.
    assert (none["worst_case"], none["audited"], none["broken_by_audit"]) == (0.25, 0.2, 1)
    assert (none["aa"], none["tr-aa"], none["claim"]) == (0.25, None, None)
    # 0–13 and then 0–4 and 10–13: nine images gained of 14 (p = 2/2⁹), five of 9 (p = 2/2⁵).
    assert (loir["worst_case"], loir["audited"]) == (0.7, 0.45)
    assert (loir["gain"], loir["audited_gain"]) == pytest.approx((0.45, 0.25))
    assert (loir["claim"], loir["audited_claim"], loir["broken_by_audit"]) == ("gain", "undecided", 5)
    assert loir["attacked"] == {"aa": 19, "tr-aa": 16}
    assert loir["broken"] == {"aa": 3, "tr-aa": 2}
    assert (loir["aa"], loir["tr-aa"]) == (0.8, None)
    attacked = {"audit-joint-loss": 14, "audit-square-eot-500": None, "audit-line": 10, "audit-oracle-mask": None}
    assert loir["audit_attacked"] == attacked
    assert loir["newly_broken"] == {**attacked, "audit-joint-loss": 4, "audit-line": 1}
    assert (hedge["audited"], hedge["audited_claim"]) == (0.75, "gain")
    assert (anti["worst_case"], anti["audited"], anti["broken_by_audit"]) == (0.35, 0.35, 0)
    assert (cdir["worst_case"], cdir["audited"], cdir["audited_gain"], cdir["audited_claim"]) == (0.85, *[None] * 3)
    assert cdir["claim"] == "gain"
    json.dumps(rows)


def test_the_terminal_shows_the_audit_apart_and_what_was_broken_of_what_was_attacked(audited: Catalog) -> None:
    accuracies, claims, after, audit = _tables(audited)
    header = {name.replace("\n", " ") for name in accuracies.rows[0]}
    assert header == {"defense", "n", "clean", "aa", "tr-aa", "worst case"}
    assert [each["tr-aa"] for each in accuracies.rows] == [
        "(0 of\n5)",
        "(1 of\n8)",
        "(0 of\n17)",
        "(0 of\n16)",
        "(2 of\n16)",
    ]
    # Of four defenses the gains are 2, 12, 11 and 9 images without a loss: 2/2ⁿ, times 1, 4, 3 and 2 after Holm.
    assert [each["claim"] for each in claims.rows] == [None, "undecided", "gain", "gain", "gain"]
    holm = [each["holm p"] for each in claims.rows]
    assert holm[1:] == pytest.approx([0.5, 4 * 2**-11, 3 * 2**-10, 2 * 2**-8])
    assert [each["audited\nclaim"] for each in after.rows] == [None, "undecided", None, "gain", "undecided"]
    assert {each["test"] for each in (*claims.rows[1:], *after.rows[1:])} == {"mcnemar"}
    assert audit.rows == [
        {"attack": "audit-joint-loss", "defense": "loir-2", "attacked": 14, "newly_broken": 4},
        {"attack": "audit-oracle-mask", "defense": "cdir-2", "attacked": None, "newly_broken": None},
        {"attack": "audit-line", "defense": "none", "attacked": 5, "newly_broken": 1},
        {"attack": "audit-line", "defense": "loir-2", "attacked": 10, "newly_broken": 1},
        {"attack": "audit-square-eot-500", "defense": "hedge", "attacked": 16, "newly_broken": 1},
    ]


@pytest.mark.parametrize("terminal", [True, False])
def test_nine_attacks_and_an_audit_fit_into_120_columns(catalog: Catalog, terminal: bool) -> None:
    images = [f"{index:03d}" for index in range(256)]
    add_run(catalog)
    defenses, attacks = ["none", "anti-adversary"], [*NINE_ATTACKS, *AUDIT_ATTACKS]
    add_plan(catalog, {f"{d}-{a}": (d, a, images) for d in defenses for a in attacks})
    for defense in defenses:
        for attack in attacks:
            key = f"{defense}-{attack}"
            left = "robust" if attack == "aa" else "skipped"
            statuses = ["robust"] * 129 + ["broken"] * 62 + [left] * 65
            rows = [outcome(key, defense, attack, *cell) for cell in zip(images, statuses, strict=True)]
            catalog.commit("outcomes", key, rows)
    for table in _tables(catalog):
        lines = _printed(table, terminal=terminal)
        assert max(map(len, lines)) <= 120
        text = " ".join(lines)
        assert "…" not in text
        if "clean" in table.rows[0]:
            # A cell that had to be folded would not stand whole in the line of its defense.
            assert sum(line.count("(62 of") for line in lines) == 2 * 8
            assert [name.replace("\n", "") for name in table.rows[0]][3:12] == list(NINE_ATTACKS)
            assert "0.7578" in text


def test_the_command_prints_tables_and_a_sentence_a_defense(
    audited: Catalog, capsys: pytest.CaptureFixture[str]
) -> None:
    show_accuracy(audited, "run", as_json=False)
    out = capsys.readouterr().out
    assert "Run run, accuracies as fractions; (2 of 9): it broke 2 of the 9 images left to it" in out
    assert (
        "The gain of hedge survives the one of 8 adaptive attacks that was run on it: +55.0 points, p = 0.00098." in out
    )
    # With six images gained and none lost p is 1/32; 5 of 20 are 6 (5.5) of 22.
    undone = "from +45.0 to +25.0 points, p = 0.062, undecided at 20 images; about 37 images would decide it"
    assert f"The audit undoes the gain of loir-2: {undone}" in out
    assert "No audit attack was planned on anti-adversary: its worst case is not audited." in out
    assert "the gain of cdir-2 is not known; not finished on cdir-2: audit-oracle-mask." in out
    show_accuracy(audited, "run", as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert rows[0]["newly_broken"]["audit-line"] == 1
    assert rows[0]["tr-aa"] is None


def test_without_audit_and_skipped_images_there_is_one_table(catalog: Catalog) -> None:
    add_run(catalog)
    add_plan(catalog, {"u": ("none", "aa", "ab"), "v": ("none", "clean", "ab")})
    rows = [outcome("u", "none", "aa", "a", "robust"), outcome("u", "none", "aa", "b", "broken")]
    catalog.commit("outcomes", "u", rows)
    (table,) = _tables(catalog)
    assert list(table.rows[0]) == ["defense", "n", "clean", "aa", "worst_case", "low", "high", "gain", "claim"]
    assert (table.rows[0]["aa"], table.rows[0]["worst_case"]) == (0.5, None)


def test_a_run_without_outcomes_or_attacks_prints_no_rows(catalog: Catalog) -> None:
    add_run(catalog)
    (table,) = _tables(catalog)
    assert table.rows == []


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        (
            (9, 0),
            (6, 0),
            "The gain of x survives the 3 of 8 adaptive attacks that were run on it: +30.0 points, p = 0.031.",
        ),
        (
            (5, 0),
            (6, 0),
            "The gain of x shows only after the 3 of 8 adaptive attacks that were run on it: +30.0 points, p = 0.031.",
        ),
        ((9, 0), (0, 6), "The audit turns the gain of x into a loss: from +45.0 to −30.0 points, p = 0.031."),
        ((2, 0), (0, 6), "x loses after the audit: −30.0 points, p = 0.031."),
        (
            (9, 0),
            (5, 0),
            "The audit undoes the gain of x: from +45.0 to +25.0 points, p = 0.062, undecided at 20 images; "
            "about 37 images would decide it at 80 % power, if the shares stay.",
        ),
        (
            (1, 0),
            (3, 3),
            "x is undecided after the audit: +0.0 points, p = 1, at 20 images; no number of images in reach would "
            "decide it.",
        ),
    ],
)
def test_each_fate_of_a_gain_has_its_sentence(before: tuple[int, int], after: tuple[int, int], sentence: str) -> None:
    gains = {"gain": (before[0] - before[1]) / 20, "audited_gain": (after[0] - after[1]) / 20}
    row = {"defense": "x", **gains}
    assert audit_sentence(row, Comparison(20, *before), Comparison(20, *after), 3) == sentence


@pytest.mark.parametrize(
    ("faced", "attacks"),
    [
        (8, "all 8 adaptive attacks of the audit"),
        (7, "the 7 of 8 adaptive attacks that were run on it"),
        (1, "the one of 8 adaptive attacks that was run on it"),
    ],
)
def test_a_gain_survives_what_it_was_tried_with_and_no_more(faced: int, attacks: str) -> None:
    row = {"defense": "x", "gain": 0.45, "audited_gain": 0.3}
    sentence = audit_sentence(row, Comparison(20, 9, 0), Comparison(20, 6, 0), faced)
    assert sentence == f"The gain of x survives {attacks}: +30.0 points, p = 0.031."


def _sentences(catalog: Catalog, committed: Mapping[tuple[str, str], str]) -> list[str]:
    """The sentences on a run whose units are (defense, attack) → the status of both of its images, or "" for none."""
    add_run(catalog)
    add_plan(catalog, {f"{defense}-{attack}": (defense, attack, "ab") for defense, attack in committed})
    for (defense, attack), status in committed.items():
        key = f"{defense}-{attack}"
        if status == "error":
            add_failure(catalog, key)
        elif status:
            catalog.commit("outcomes", key, [outcome(key, defense, attack, image, status) for image in "ab"])
    return audit_sentences(_results(catalog))


def test_without_an_undefended_model_a_gain_is_not_audited(catalog: Catalog) -> None:
    done = {("hedge", "aa"): "robust", ("hedge", "audit-line"): "robust"}
    assert _sentences(catalog, done) == [
        "hedge has no gain to audit: the run has no undefended model to compare it with."
    ]


@pytest.mark.parametrize(
    ("units", "why"),
    [
        ({("hedge", "audit-line"): ""}, "not finished on hedge: audit-line"),
        ({("hedge", "aa"): "", ("hedge", "audit-line"): ""}, "not finished on hedge: aa, audit-line"),
        (
            {("hedge", "aa"): "error", ("hedge", "audit-line"): ""},
            "failed on hedge: aa; not finished on hedge: audit-line",
        ),
        ({("none", "audit-line"): ""}, "not finished on none: audit-line"),
        (
            {("none", "aa"): "error", ("hedge", "audit-line"): "error"},
            "failed on hedge: audit-line; failed on none: aa",
        ),
    ],
)
def test_an_audit_says_which_attacks_it_still_lacks(
    catalog: Catalog, units: dict[tuple[str, str], str], why: str
) -> None:
    done = {(defense, attack): "robust" for defense in ("none", "hedge") for attack in ("aa", "audit-line")}
    assert _sentences(catalog, done | units) == [f"What the audit leaves of the gain of hedge is not known; {why}."]


def test_audit_attacks_that_no_defense_faces_are_not_measured(catalog: Catalog) -> None:
    planned = {(defense, "audit-line"): "robust" for defense in ("none", "loir-2")}
    planned |= {("loir-2", attack): "robust" for attack in ("audit-joint-loss", "audit-square-eot-500")}
    _sentences(catalog, planned)
    gap = "audit-oracle-mask-9 on none, which has no two passes to aim at"
    results = _results(catalog)
    found = unmeasured(replace(results, run={**results.run, "notes": [f"{NOT_MEASURED}{gap}"]}))
    assert found[0] == gap
    # What hedge or none lack beside others, and what the gap above names, is not said again.
    assert found[-1] == (
        "Of the audit's 8 adaptive attacks no defense faced audit-transfer-start, audit-detached-mask, "
        "audit-identity-mask, audit-square-eot (only with another budget: audit-square-eot-500), audit-best-start."
    )
    assert "oracle" not in " ".join(found[1:])


def _section(text: str, title: str) -> str:
    (found,) = re.findall(rf"<section[^>]*>\s*<h2>{title}</h2>.*?</section>", text, flags=re.DOTALL)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", found)))


def test_the_report_shows_both_claims_and_each_attack_with_its_idea(audited: Catalog) -> None:
    text = write_report(audited, None, audited.root.parent / "report.html").read_text()
    accuracy = _section(text, "Accuracy")
    assert "Worst case After the audit Gain, points Gain after it Claim Claim after it Clean" in accuracy
    # The one table that shows what single attacks left is of those that are no audit's.
    assert "audit-line" not in accuracy.split("Worst case")[1]
    loir = "▲ gain p = 0.0039, Holm: 0.0078 ○ undecided p = 0.062, Holm: 0.12"
    assert f"loir-2 70.0 % 48.1–85.5 45.0 % 25.8–65.8 +45.0 +25.0 {loir} 95.0 %" in accuracy
    # Claimed is what all attacks leave.
    assert "○ loir-2 shows no gain: 45.0 % against 20.0 %, undecided at 20 images (5 images gained, 0 lost" in accuracy
    assert "▲ hedge gains 55.0 points: 75.0 % against 20.0 % of 20 images (11 images gained, 0 lost" in accuracy
    assert "? cdir-2 nothing can be claimed (not finished on cdir-2: audit-oracle-mask)." in accuracy
    assert "(12 of 40) says that it broke 12 of the 40 images" in accuracy
    assert "every planned attack but the audit's left it robust" in accuracy
    audit = _section(text, "Audit")
    assert f"audit-joint-loss loir-2 14 4 {IDEAS['audit-joint-loss']}" in audit
    assert f"audit-square-eot-500 hedge 16 1 {IDEAS['audit-square-eot-500']}" in audit
    assert "audit-oracle-mask cdir-2 – – " in audit
    assert "The gain of hedge survives the one of 8 adaptive attacks that was run on it" in audit
    assert "no defense faced audit-transfer-start" in _section(text, "What was not measured")


def test_a_report_without_an_audit_does_not_speak_of_one(filled: Catalog) -> None:
    text = write_report(filled, None, filled.root.parent / "plain.html").read_text()
    assert "<h2>Audit</h2>" not in text
    assert "the audit" not in _section(text, "Accuracy")


def test_warnings_and_errors_are_counted_at_the_headline(filled: Catalog, audited: Catalog) -> None:
    text = write_report(filled, None, filled.root.parent / "badges.html").read_text()
    assert "1 error 1 warning among the checks" in _section(text, "Accuracy")
    quiet = write_report(audited, None, audited.root.parent / "report.html").read_text()
    assert "among the checks" not in quiet


def test_what_noise_alone_breaks_stands_beside_clean_accuracy(catalog: Catalog) -> None:
    add_run(catalog)
    add_plan(catalog, {f"{d}-aa": (d, "aa", "abcd") for d in ("none", "loir-2", "cdir-2")})
    for defense, kind in (("loir-2", "seen"), ("cdir-2", "unseen")):
        key = f"noise-{defense}"
        unit = row("run_units", run_id="run", unit_key=key, kind="noise", defense=defense, reported=False)
        catalog.commit("run_units", f"{kind}-{defense}", [{**unit, "image_ids": list("abcd")}])
    # a fails in 3 of 10 draws, b in none, c in one; d is wrong at first and is not asked.
    failures = {"a": 3, "b": 0, "c": 1, "d": None}
    rows = [
        row(
            "noise",
            unit_key="noise-loir-2",
            defense="loir-2",
            image_id=image,
            clean_correct=failed is not None,
            draws=None if failed is None else 10,
            failures=failed,
        )
        for image, failed in failures.items()
    ]
    catalog.commit("noise", "noise-loir-2", rows)
    text = _section(write_report(catalog, None, catalog.root.parent / "report.html").read_text(), "Accuracy")
    assert "Clean Fails under noise alone aa" in text
    assert "13.3 % 2 of 3 images" in text
    assert "not finished" in text
    assert "Under noise alone stands the share of wrong answers" in text


def test_an_audit_unit_that_failed_leaves_nothing_known_of_its_defense(catalog: Catalog) -> None:
    add_run(catalog)
    add_plan(catalog, {"u": ("loir-2", "aa", "ab"), "v": ("loir-2", "audit-line", "ab")})
    catalog.commit("outcomes", "u", [outcome("u", "loir-2", "aa", image, "robust") for image in "ab"])
    add_failure(catalog, "v")
    (each,) = accuracy_rows(_results(catalog))
    assert (each["worst_case"], each["audited"], each["broken_by_audit"]) == (1.0, None, None)
    assert each["newly_broken"] == {"audit-line": None}
