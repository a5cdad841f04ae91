"""The notebook of docs/ runs from its first cell to its last, and what it prints is what the catalog holds."""

import json
import linecache

import pytest

from tests.toys.places import REPOSITORY

NOTEBOOK = REPOSITORY / "docs" / "evaluation.ipynb"


def test_its_cells_run_one_after_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    names: dict[str, object] = {"__name__": "__main__"}
    for place, cell in enumerate(notebook["cells"]):
        if cell["cell_type"] == "code":
            # As a notebook does, so that the source of what a cell defines is found.
            text, name = "".join(cell["source"]), f"<cell {place}>"
            linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name
            exec(compile(text, name, "exec"), names)
    printed = capsys.readouterr().out
    assert "worst" in printed
    accuracies = names["accuracies"].to_pylist()  # type: ignore[attr-defined]
    assert {row["defense"] for row in accuracies} == {"none", "loir-8"}
    assert all(0 <= row["robust_accuracy"] <= 1 for row in accuracies)
    classes = names["classes"]
    assert sum(row["n"] for row in classes) == 2 * 16  # type: ignore[attr-defined]


def test_it_is_kept_without_outputs_and_a_page_names_it() -> None:
    notebook = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert all(not cell.get("outputs") for cell in notebook["cells"])
    assert "(evaluation.ipynb)" in (REPOSITORY / "docs" / "guide.md").read_text()
