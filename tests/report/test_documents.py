"""A run's report as Markdown, LaTeX and JSON, and tables as text."""

import doctest
import json
import re
from pathlib import Path

import pytest

from igd_ray.catalog import Catalog, run_query
from igd_ray.cli import main
from igd_ray.report import texts
from igd_ray.report.texts import Grid, latex_table, markdown_table


def _report(catalog: Catalog, form: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["report", "--catalog", str(catalog.root), "--format", form]) == 0
    path = catalog.root / f"report.{form}"
    assert capsys.readouterr().out == f"report: {path}\n"
    text = path.read_text()
    path.unlink()
    return text


def test_the_examples_in_the_docstrings() -> None:
    result = doctest.testmod(texts)
    assert (result.attempted, result.failed) == (2, 0)


def test_text_that_means_something_in_markdown_or_latex_stays_text() -> None:
    table = Grid(["a|b", "c_d"], [["<b>\n*x*", "$100 % {\\}"]], [False, True])
    assert markdown_table(table) == "| a\\|b | c\\_d |\n| --- | ---: |\n| &lt;b&gt; \\*x\\* | \\$100 % \\{\\\\\\} |\n"
    assert latex_table(table) == (
        "\\begin{tabular}{lr}\n  \\toprule\n  a\\textbar{}b & c\\_d \\\\\n  \\midrule\n"
        "  \\textless{}b\\textgreater{} *x* & \\$100 \\% \\{\\textbackslash{}\\} \\\\\n  \\bottomrule\n\\end{tabular}\n"
    )


def test_markdown_says_what_the_page_says(filled: Catalog, capsys: pytest.CaptureFixture[str]) -> None:
    text = _report(filled, "md", capsys)
    assert "- ▲ gain: loir-12 gains 45.0 points: 65.0 % against 20.0 % of 40 images (20 images gained, 2 lost" in text
    assert "| none | 20.0 % (10.5–34.8) | – | undefended |" in text
    assert "&lt;i&gt;seen" in text
    assert "<i>" not in text
    assert "- Unit cdir-12-aa (cdir-12 / aa) failed, attempts: 1; CUDA out of memory" in text


def test_every_row_of_a_latex_table_has_its_columns(filled: Catalog, capsys: pytest.CaptureFixture[str]) -> None:
    text = _report(filled, "tex", capsys)
    tables = re.findall(r"\\begin\{tabular\}\{([lr]+)\}(.*?)\\end\{tabular\}", text, flags=re.DOTALL)
    assert len(tables) >= 3
    for columns, body in tables:
        for line in re.findall(r"^  (.*) \\\\$", body, flags=re.MULTILINE):
            assert len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1
    assert "20.0 \\% (10.5--34.8)" in text
    assert text.count("{") == text.count("}")


def test_json_has_fractions_and_null(filled: Catalog, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(_report(filled, "json", capsys))
    assert [claim["verdict"] for claim in found["claims"]] == ["unknown", "unknown", "gain", "undecided"]
    worst = {row["defense"]: row["worst_case"] for row in found["accuracies"]}
    assert worst == {"none": 0.2, "cdir-12": None, "hedge": None, "loir-12": 0.65, "random-12": 0.25}
    assert found["attack_costs"][0]["attack"] in ("aa", "rays-1000", "tr-aa")


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("md", "| defense | n | gain |\n| --- | ---: | ---: |\n| none | 40 | 0 |\n| hedge | 40 | NULL |\n"),
        (
            "tex",
            "\\begin{tabular}{lrr}\n  \\toprule\n  defense & n & gain \\\\\n  \\midrule\n  none & 40 & 0 \\\\\n"
            "  hedge & 40 & NULL \\\\\n  \\bottomrule\n\\end{tabular}\n",
        ),
    ],
)
def test_an_answer_in_sql_as_a_table_of_a_document(
    form: str, expected: str, filled: Catalog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["sql", "--catalog", str(filled.root), "--format", form]
    sql = "SELECT defense, n, gain FROM worst_case WHERE defense IN ('none', 'hedge') ORDER BY gain"
    assert run_query(filled, sql).num_rows == 2
    assert main([*asked, sql]) == 0
    assert capsys.readouterr().out == expected
    assert main([*asked, "--output", str(tmp_path / "answer"), sql]) == 0
    assert (tmp_path / "answer").read_text() == expected
