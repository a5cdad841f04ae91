"""The attacks in files of docs/worst-case.md run as the page says; a stand-in has the calls of foolbox."""

import re
from pathlib import Path

import pytest

from igd_ray.catalog import Catalog, run_query
from igd_ray.report.html import write_report
from tests.docs.documents import blocks
from tests.toys.runs import run_evaluation

FILES = {
    match[1]: block.text
    for block in blocks("python")
    if block.page == "worst-case.md" and (match := re.match(r"# (\w+\.py)\n", block.text))
}

FOOLBOX = """
import torch

class PyTorchModel:
    def __init__(self, model, bounds, device=None):
        self.model, self.bounds = model, bounds

class attacks:
    class LinfPGD:
        def __init__(self, steps):
            self.steps = steps

        def __call__(self, model, images, labels, *, epsilons):
            points = images + epsilons * (2 * torch.rand_like(images) - 1)
            for _ in range(self.steps):
                points = points.clamp(*model.bounds).detach().requires_grad_()
                loss = torch.nn.functional.cross_entropy(model.model(points), labels, reduction="sum")
                points = points + epsilons / 4 * torch.autograd.grad(loss, [points])[0].sign()
                points = (images + (points - images).clamp(-epsilons, epsilons)).detach()
            points = points.clamp(*model.bounds)
            return points, points, model.model(points).argmax(dim=1) != labels
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("name", sorted(FILES))
def test_an_example_has_at_most_thirty_lines(name: str) -> None:
    assert len(FILES[name].splitlines()) <= 30


def test_the_attack_of_another_library(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "stand_in").mkdir()
    (folder / "stand_in" / "foolbox.py").write_text(FOOLBOX)
    monkeypatch.syspath_prepend(folder / "stand_in")
    attack = f"fool={folder / 'foolbox_pgd.py'}:FoolboxPGD"
    assert not run_evaluation(folder / "results", defenses="none,hedge", attacks=attack, n=8).failed
    (row,) = run_query(
        Catalog(folder / "results"),
        "SELECT count(*) FILTER (status = 'broken') AS broken, min(queries) AS queries FROM outcomes "
        "WHERE attack = 'fool' AND defense = 'none'",
    ).to_pylist()
    assert row["broken"] > 0
    # Twenty steps, a look at the points found, and the base class's own look and verdict.
    assert row["queries"] >= 20


def test_the_adaptive_loss_attacks_one_defense(folder: Path) -> None:
    attacks = f"tr-fgsm,audit-first@loir-8={folder / 'first_pass.py'}:FirstPassAPGD"
    assert not run_evaluation(folder / "results", defenses="none,loir-8", attacks=attacks, n=8).failed
    found = run_query(Catalog(folder / "results"), "SELECT DISTINCT defense, attack FROM outcomes ORDER BY ALL")
    assert [tuple(row.values()) for row in found.to_pylist()] == [
        ("loir-8", "audit-first"),
        ("loir-8", "tr-fgsm"),
        ("none", "tr-fgsm"),
    ]
    page = write_report(Catalog(folder / "results"), None, folder / "report.html").read_text()
    assert "APGD on the first pass&#39;s loss alone: a wrong pseudo-label chooses a wrong mask." in page
