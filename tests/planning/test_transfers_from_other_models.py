"""Transfers from another model in a file: computed on that model, judged on every defense, the undefended one too."""

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from igd_ray.attacks.own import check_attack, named_attack
from igd_ray.catalog import Catalog
from igd_ray.cli import main
from igd_ray.data import load_images
from igd_ray.errors import InputError
from igd_ray.models import load_model
from igd_ray.planning.attack_units import Cell
from igd_ray.planning.evaluation import plan_evaluation
from igd_ray.planning.workspace import Workspace
from igd_ray.report.html import write_report
from igd_ray.units.attack import AttackUnit, TransferUnit
from igd_ray.verbs.submit import stage
from tests.toys.commands import igd
from tests.toys.runs import rows, run_evaluation, settings_for

OTHER = Path(__file__).parents[1] / "toys" / "other_models" / "retrained.py"
SPEC = f"{OTHER}:factory"
LABEL = "tr-fgsm@retrained.py:factory"
N, EPSILON = 32, 0.2


@pytest.fixture
def a_file(tmp_path: Path) -> Path:
    path = tmp_path / "code" / "other.py"
    path.parent.mkdir()
    path.write_text(OTHER.read_text())
    return path


def cells(tmp_path: Path, **changes: object) -> dict[tuple[str, str], Cell]:
    given = {"defenses": "none,loir-8", "n": 8, "shard_size": 8, **changes}
    plan = plan_evaluation(Workspace(settings_for(tmp_path / "results", **given)))
    return {(cell.defense, cell.attack): cell for cell in plan.cells}


def test_the_points_are_one_step_along_the_other_models_gradient(tmp_path: Path) -> None:
    """FGSM written out: x + ε sign ∇ L(other(x), y) where the other model is right; the base model then answers."""
    catalog = tmp_path / "results"
    assert not run_evaluation(
        catalog, defenses="none", attacks=f"fgsm,tr-fgsm@{SPEC}", n=N, shard_size=N, eps=EPSILON
    ).failed
    data, base, other = load_images("digits", n=N), load_model("demo"), load_model(SPEC, weights="own")
    images = data.images.clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(other(images), data.labels, reduction="sum")
    step = EPSILON * torch.autograd.grad(loss, [images])[0].sign()
    right = other(data.images).argmax(dim=1) == data.labels
    points = torch.where(right[:, None, None, None], (data.images + step).clamp(0, 1), data.images)
    wrong = (base(points).argmax(dim=1) != data.labels) & (base(data.images).argmax(dim=1) == data.labels)
    expected = {image_id for image_id, bad in zip(data.ids, wrong.tolist(), strict=True) if bad}
    found = {row["image_id"] for row in rows(catalog) if row["attack"] == LABEL and row["status"] == "broken"}
    assert found == expected
    direct = {row["image_id"] for row in rows(catalog) if row["attack"] == "fgsm" and row["status"] == "broken"}
    assert found
    assert found != direct


def test_the_attack_is_a_unit_on_the_other_model_and_the_transfer_one_on_each_defense(tmp_path: Path) -> None:
    planned = cells(tmp_path, attacks=f"aa,tr-aa,tr-aa@{SPEC},tr-aa@wide={SPEC}")
    labels = "aa", "tr-aa", "tr-aa@retrained.py:factory", "tr-aa@wide"
    assert list(planned) == [(defense, label) for defense in ("none", "loir-8") for label in labels]
    sources = set()
    for defense in ("none", "loir-8"):
        unit = planned[defense, labels[2]].unit
        assert isinstance(unit, TransferUnit)
        assert unit.key == planned[defense, "tr-aa@wide"].unit.key, "its name is not part of what it computes"
        sources.add(unit.source.key)
    assert len(sources) == 1
    # As a base model of its own it has the very same unit, and so the same points.
    alone = cells(tmp_path, attacks="aa", defenses="none", model=SPEC, weights="own")["none", "aa"].unit
    assert isinstance(alone, AttackUnit)
    assert sources == {alone.key}
    assert alone.key != planned["none", "aa"].unit.key


def test_its_identity_is_the_code_and_the_weights(tmp_path: Path, a_file: Path) -> None:
    def key() -> str:
        return cells(tmp_path, attacks=f"tr-fgsm@other={a_file}:factory")["none", "tr-fgsm@other"].unit.key

    before = key()
    (a_file.parent / "beside.py").write_text("# not imported")
    assert key() == before
    a_file.write_text(a_file.read_text().replace("manual_seed(0)", "manual_seed(1)"))
    assert key() != before


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The weights of the other model, in a file; those that the factory below makes are others."""
    path = tmp_path / "code" / "retrained.safetensors"
    path.parent.mkdir(exist_ok=True)
    save_file(load_model(SPEC, weights="own").state_dict(), path)
    return path


def test_weights_of_a_file_are_those_that_a_factory_loads(tmp_path: Path, weights: Path) -> None:
    empty = tmp_path / "demo.py"
    empty.write_text("from igd_ray.models.demo import demo_model\n\n\ndef factory():\n    return demo_model()\n")
    attacks = f"tr-fgsm@{empty}:factory#{weights},tr-fgsm@one={SPEC}"
    planned = cells(tmp_path, attacks=attacks, defenses="none")
    other, one = (planned["none", f"tr-fgsm@{name}"].unit for name in ("demo.py:factory#retrained.safetensors", "one"))
    # The models are equal, whatever made them, and so are their points.
    assert other.key == one.key
    without = attacks.partition("#")[0]
    assert cells(tmp_path, attacks=without, defenses="none")["none", "tr-fgsm@demo.py:factory"].unit.key != one.key
    workspace = Workspace(
        settings_for(tmp_path / "results", attacks=attacks.partition(",")[0], defenses="none", n=8, shard_size=8)
    )
    plan_evaluation(workspace)
    setup = workspace.worker_setup()
    # A node has copies of the files, and nothing at the places that the driver names.
    node = {file: tmp_path / "node" / file.name for group in setup.files() for file in group}
    assert set(node) == {weights, empty}
    (tmp_path / "node").mkdir()
    for file, copy in node.items():
        file.rename(copy)
    ((model_id, _),) = setup.other_models.items()
    loaded = setup.with_files(node).source(model_id).load("cpu")
    expected = load_model(SPEC, weights="own").state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())


def test_a_job_takes_the_weights_along(tmp_path: Path, a_file: Path, weights: Path) -> None:
    (tmp_path / "job").mkdir()
    words = ["--catalog", str(tmp_path / "results"), "--attacks", f"tr-aa@{a_file}:factory#{weights}"]
    stage("evaluate", words, tmp_path / "job")
    written = (tmp_path / "job" / "settings.yaml").read_text()
    (copy,) = re.findall(r"inputs/\w+/retrained\.safetensors", written)
    assert (tmp_path / "job" / copy).read_bytes() == weights.read_bytes()
    entry = re.search(r"attacks: (\S+)", written)
    assert entry is not None
    assert named_attack(entry[1]).label == "tr-aa@other.py:factory#retrained.safetensors"


def test_each_counts_in_the_worst_case_and_stands_under_its_label(
    tmp_path: Path, a_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog = tmp_path / "results"
    a_file.write_text(a_file.read_text().replace("manual_seed(0)", "manual_seed(1)"))
    attacks = f"tr-apgd-ce-5@{SPEC},tr-apgd-ce-5@further={a_file}:factory,audit-best-start-3"
    words = ["evaluate", "--catalog", str(catalog), "--executor", "local", "--n", str(N), "--probe-n", "200"]
    words += ["--defenses", "none,loir-8", "--eps", str(EPSILON)]
    (none, _) = json.loads(igd([*words, "--attacks", attacks, "--json"], capsys))
    labels = {"tr-apgd-ce-5@retrained.py:factory", "tr-apgd-ce-5@further"}
    undefended = [row for row in rows(catalog) if row["defense"] == "none" and row["status"] == "broken"]
    broken = {label: {row["image_id"] for row in undefended if row["attack"] == label} for label in labels}
    assert all(broken.values())
    assert none["worst_case"] <= 1 - len(set.union(*broken.values())) / N
    page = write_report(Catalog(catalog), None, tmp_path / "report.html").read_text()
    for label in labels:
        assert none["broken"][label] == len(broken[label])
        assert f"{label} is computed on " in page
    assert "further" in igd([*words, "--mode", "cascade", "--attacks", attacks], capsys)
    assert igd([*words, "--dry-run", "--attacks", attacks], capsys)


def test_their_verdicts_verify_where_the_file_is_named(
    tmp_path: Path, a_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attacks = f"tr-fgsm@{a_file}:factory"
    run_evaluation(tmp_path / "results", defenses="none,loir-8", attacks=attacks, n=8)
    verify = ["verify", "--catalog", str(tmp_path / "results")]
    assert main(verify) == 2
    assert f"where they are now: --attacks {attacks}" in capsys.readouterr().err
    moved = tmp_path / "other.py"
    a_file.rename(moved)
    assert main([*verify, "--attacks", f"tr-fgsm@{moved}:factory"]) == 0
    assert "all 16 verdicts hold" in capsys.readouterr().out


def test_a_job_takes_the_file_along_and_keeps_the_label(tmp_path: Path, a_file: Path) -> None:
    (tmp_path / "job").mkdir()
    words = ["--catalog", str(tmp_path / "results"), "--attacks", f"aa,tr-aa@{a_file}:factory,tr-aa@b={a_file}:factory"]
    stage("evaluate", words, tmp_path / "job")
    written = (tmp_path / "job" / "settings.yaml").read_text()
    attacks = re.search(r"attacks: (\S+)", written)
    assert attacks is not None
    same, *others = attacks[1].split(",")
    assert same == "aa"
    assert [named_attack(entry).label for entry in others] == ["tr-aa@other.py:factory", "tr-aa@b"]
    copies = re.findall(r"inputs/\w+/other\.py", written)
    assert len(copies) == 2
    assert all((tmp_path / "job" / copy).read_text() == a_file.read_text() for copy in copies)


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ("tr-aa@other", "given as tr-ATTACK@FILE.py:factory or tr-ATTACK@NAME=FILE.py:factory"),
        ("tr-aa@wide=other", "given as tr-ATTACK@FILE.py:factory or tr-ATTACK@NAME=FILE.py:factory"),
        ("tr-aa@a.py#w.pt", "with #WEIGHTS behind it where a file holds its weights"),
        ("tr-aaa@a.py:f", "unknown attack 'tr-aaa'; .* did you mean 'tr-aa'"),
        ("aa@a.py:f", "another model is for transfers, such as tr-aa@FILE.py:factory, not aa"),
        ("audit-bpda@mine=a.py:f", "'audit-bpda' is one of this package's own attacks"),
    ],
)
def test_a_wrong_entry_is_told_before_anything_is_read(entry: str, what: str) -> None:
    with pytest.raises(InputError, match=what):
        check_attack(entry)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("import sys\nsys.exit(0)", "calls sys.exit or os._exit"),
        ("print('hello')\n" + OTHER.read_text(), "it prints 'hello' among igd's results"),
        ("def factory():\n    raise KeyError('k')", "KeyError"),
        ("def factory():\n    return 3", "expected factory to return an nn.Module, got int"),
        ("import torch\ndef factory():\n    return torch.nn.Flatten(2)", "must return float logits"),
        ("import torch\ndef factory():\n    return torch.nn.Unflatten(1, (3, 3))", "cannot take images"),
        (
            "from torch import nn\ndef factory():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))",
            "two calls of the factory give different weights",
        ),
        (
            "import torch\nfrom torch import nn\ndef factory():\n    torch.manual_seed(0)\n"
            "    return nn.Sequential(nn.Flatten(), nn.Linear(64, 9))",
            "has 9 classes, the data 10",
        ),
    ],
)
def test_a_model_that_cannot_be_one_is_one_line_and_nothing_is_written(
    tmp_path: Path, a_file: Path, text: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    a_file.write_text(text)
    words = ["evaluate", "--catalog", str(tmp_path / "results"), "--n", "8", "--attacks", f"tr-fgsm@{a_file}:factory"]
    assert main([*words, "--executor", "local"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("igd: error: ")
    assert "other.py" in line
    assert what in line
    assert not (tmp_path / "results").exists()
