"""Defenses in files of the user's: told apart by their code, judged like the package's own, and the same rows."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from igd_ray.catalog import Catalog, run_query
from igd_ray.cli import main
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.errors import InputError
from igd_ray.planning.defenses import needed_defenses
from igd_ray.planning.workspace import Workspace
from tests.toys.runs import rows, run_evaluation, settings_for

FOLDER = Path(__file__).parents[1] / "toys" / "own_defenses"
JPEG, RESIZING, TWO_PASSES = (f"{FOLDER / name}.py:factory" for name in ("jpeg", "resizing", "two_passes"))

VERDICT = ("image_id", "status", "clean_prediction", "adversarial_prediction", "distance", "broken_any", "stage")


def planned(tmp_path: Path, **changes: object) -> DefenseSpec:
    """The last defense of a small evaluation."""
    return needed_defenses(Workspace(settings_for(tmp_path / "results", **changes))).defenses[-1]


@pytest.fixture
def a_file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "code" / "mine.py"
    path.parent.mkdir()
    path.write_text((FOLDER / "resizing.py").read_text())
    return path


def test_a_defense_written_again_gives_the_same_verdicts_the_audit_included(tmp_path: Path) -> None:
    attacks = "apgd-ce-10,square-50,tr-apgd-ce-10,audit-transfer-start-10,audit-joint-loss-10,audit-oracle-mask-10,"
    attacks += "audit-detached-mask-10,audit-identity-mask-10,audit-line-5,audit-square-eot-50,audit-best-start-10"
    run_evaluation(
        tmp_path / "results",
        defenses=f"none,loir-16,mine={TWO_PASSES}",
        attacks=attacks,
        sigma=0.0,
        attack_seed=0,
        n=32,
        shard_size=16,
    )
    found: dict[str, dict[str, list[tuple[object, ...]]]] = {"loir-16": {}, "mine": {}}
    for row in rows(tmp_path / "results"):
        if row["defense"] in found:
            verdict = tuple(row[name] for name in VERDICT)
            found[str(row["defense"])].setdefault(str(row["attack"]), []).append(verdict)
    assert set(found["mine"]) == set(attacks.split(","))
    assert found["mine"] == found["loir-16"]
    assert {verdict[1] for verdicts in found["mine"].values() for verdict in verdicts} >= {"broken", "robust"}


def test_rows_say_which_code_it_was_and_count_its_passes(tmp_path: Path) -> None:
    run_evaluation(
        tmp_path / "results",
        defenses=f"none,small={RESIZING},mine={TWO_PASSES}",
        defense_arg={"small.share": 0.5, "mine.k": 20},
        attacks="apgd-ce-3,tr-apgd-ce-3",
        n=8,
    )
    by_label = {row["defense"]: row for row in rows(tmp_path / "results")}
    arguments = {label: json.loads(str(row["defense_arguments"])) for label, row in by_label.items()}
    assert set(arguments["small"]) == {"code", "factory", "share"}
    assert arguments["small"]["share"] == 0.5
    assert arguments["mine"] == {**arguments["mine"], "k": 20, "tau": 0.01, "factory": "factory", "ranking": "loir"}
    assert (by_label["mine"]["layer"], by_label["small"]["layer"]) == ("penultimate", None)
    assert by_label["mine"]["ranking_id"] is not None
    for label, passes in (("mine", 2), ("small", 1)):
        forwards, queries = (
            sum(int(str(row[name])) for row in rows(tmp_path / "results") if row["defense"] == label)
            for name in ("forwards", "queries")
        )
        assert forwards == passes * queries > 0
    checks = run_query(Catalog(tmp_path / "results"), 'SELECT defense, "check", severity FROM checks').to_pylist()
    severities = {(row["defense"], row["check"]): row["severity"] for row in checks}
    assert severities["small", "randomised"] == "warning"


def test_its_points_are_verified_where_its_file_is_named(
    tmp_path: Path, a_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog, defenses = str(tmp_path / "results"), f"none,mine={a_file}:factory"
    run_evaluation(catalog, defenses=defenses, attacks="apgd-ce-3,tr-apgd-ce-3", n=8)
    assert main(["verify", "--catalog", catalog]) == 2
    assert f"if you trust their files, name the run's defenses, where they are now: --defenses {defenses}" in (
        capsys.readouterr().err
    )
    moved = a_file.rename(tmp_path / "moved.py")
    here = ["verify", "--catalog", catalog, "--defenses", f"none,mine={moved}:factory"]
    assert main(here) == 0
    assert "all 32 verdicts hold" in capsys.readouterr().out
    moved.write_text(moved.read_text().replace("0.25", "0.5"))
    assert main(here) == 2
    assert "give run" in capsys.readouterr().err


def test_its_identity_is_code_arguments_and_what_it_asked_for(tmp_path: Path, a_file: Path) -> None:
    entry = {"defenses": f"none,mine={a_file}:factory"}
    before = planned(tmp_path, **entry)
    assert planned(tmp_path, defenses=f"none,other={a_file}:factory").defense_id == before.defense_id
    assert planned(tmp_path, **entry, defense_arg={"mine.share": 0.25}).defense_id == before.defense_id
    assert planned(tmp_path, **entry, defense_arg={"mine.share": 0.3}).defense_id != before.defense_id
    elsewhere = a_file.parent / "elsewhere.py"
    elsewhere.write_text("# a comment\n")
    assert planned(tmp_path, **entry).defense_id == before.defense_id
    a_file.write_text(a_file.read_text().replace("max(1,", "max(2,"))
    changed = planned(tmp_path, **entry)
    assert changed.defense_id != before.defense_id
    a_file.write_text("import elsewhere\n" + a_file.read_text())
    with_sibling = planned(tmp_path, **entry).defense_id
    elsewhere.write_text("# another comment\n")
    assert planned(tmp_path, **entry).defense_id != with_sibling


def test_it_gets_what_it_asks_for_by_name(tmp_path: Path) -> None:
    file = tmp_path / "asking.py"
    file.write_text(
        """
from torch import nn

class Shifted(nn.Module):
    def __init__(self, model, shift):
        super().__init__()
        self.model, self.shift = model, shift
    def forward(self, x):
        return self.model(x - self.shift)

def factory(model, *, probe, class_names, device, scores, generator):
    assert len(class_names) == 10 and probe.images.shape == (200, 1, 8, 8) and probe.labels.shape == (200,)
    assert scores.shape == (10, 64) and probe.images.device == device and generator is not None
    return Shifted(model, 0.01 * probe.images.mean())
"""
    )
    run_evaluation(tmp_path / "results", defenses=f"none,mine={file}:factory", attacks="clean", n=8)
    (arguments,) = {str(row["defense_arguments"]) for row in rows(tmp_path / "results") if row["defense"] == "mine"}
    assert set(json.loads(arguments)) == {"code", "factory", "ranking", "probe", "class_names"}


BODY = """
import torch
from torch import nn

class Plain(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
        self.calls = 0
    def forward(self, x):
        {forward}

def factory(model{more}):
    {make}
    return Plain(model)
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("raise ValueError('no such thing')", "importing it: ValueError: no such thing"),
        ("import sys; sys.exit(0)", r"importing it: it calls sys\.exit or os\._exit \(status 0\)"),
        ("print('hello')\n" + BODY, "importing it: it prints 'hello'"),
        ("def other(model): pass", "it has no factory 'factory'"),
        ({"make": "raise KeyError('k')"}, "module: KeyError: 'k'"),
        ({"make": "import sys; sys.exit(0)"}, r"module: it calls sys\.exit"),
        ({"make": "return 3"}, "module: it returns int, not an nn.Module"),
        ({"make": "print('made')"}, "module: it prints 'made'"),
        ({"make": "next(model.parameters()).data.mul_(2)"}, "building it changes the base model's weights"),
        ({"make": "model.train()"}, "building it changes the base model's weights, mode or hooks"),
        ({"make": "model.register_forward_hook(lambda *_: None)"}, "building it changes the base model's weights"),
        (
            {"forward": "self.model.train(); return self.model(x)"},
            "base model: asking it changes the base model's weights",
        ),
        (
            {"forward": "return self.model(x)[:, :9]"},
            r"logits: it returns torch\.float32 \[8, 9\], not float logits \[8, 10\]",
        ),
        ({"forward": "return self.model(x) * float('nan')"}, "logits: its logits have NaN or infinity"),
        ({"forward": "return self.model(x).softmax(dim=1)"}, "logits: it returns probabilities, which sum to 1"),
        ({"forward": "return self.model(x).to('meta')"}, "logits: its logits are on meta, its images on cpu"),
        ({"forward": "return self.model(x + 0.1 * torch.rand_like(x))"}, "seed: two answers with one seed differ"),
        ({"forward": "self.calls += 1; return self.model(x)"}, "memory: an attribute of it changes with a call"),
        ({"forward": "print('asked'); return self.model(x)"}, "base model: it prints 'asked'"),
        ({"forward": "import sys; sys.exit(3)"}, r"base model: it calls sys\.exit or os\._exit \(status 3\)"),
        ({"more": ", steps"}, "its factory needs steps; give --defense-arg mine.steps=VALUE"),
        ({"more": ", code=1"}, "its factory cannot have an argument called 'code'"),
    ],
)
def test_what_cannot_be_judged_is_refused_before_anything_is_written(
    tmp_path: Path, text: str | dict[str, str], message: str
) -> None:
    file = tmp_path / "mine.py"
    parts = {"forward": "return self.model(x)", "make": "pass", "more": ""}
    if isinstance(text, dict):
        text = BODY.format(**{**parts, **text})
    file.write_text(text.format(**parts) if "{forward}" in text else text)
    with pytest.raises(InputError, match=rf"^defense mine=mine\.py:factory: .*{message}"):
        run_evaluation(tmp_path / "results", defenses=f"none,mine={file}:factory")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("leave", ["import sys; sys.exit(0)", "import os; os._exit(0)"])
def test_an_exit_on_later_images_is_an_error_of_these_and_not_the_exit_of_igd(
    tmp_path: Path, leave: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The look at the defense, on 8 images and one by one, does not see it; the second shard has 5."""
    file = tmp_path / "mine.py"
    file.write_text(BODY.format(forward=f"if len(x) == 5: {leave}\n        return self.model(x)", make="pass", more=""))
    words = [
        "evaluate",
        "--catalog",
        str(tmp_path / "results"),
        "--executor",
        "local",
        "--n",
        "13",
        "--shard-size",
        "8",
    ]
    assert main([*words, "--defenses", f"none,mine={file}:factory", "--attacks", "fgsm"]) == 1
    told = capsys.readouterr().err
    assert "mine.py calls sys.exit or os._exit (status 0), which would end the run; remove the call" in told
    assert told.count("igd: error: ") == 1
    statuses = {
        defense: [row["status"] for row in rows(tmp_path / "results") if row["defense"] == defense]
        for defense in ("none", "mine")
    }
    assert (len(statuses["none"]), statuses["none"].count("error")) == (13, 0)
    assert (len(statuses["mine"]), statuses["mine"].count("error")) == (13, 5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"defenses": "mine=nowhere.py:factory"}, r"defense mine=nowhere\.py:factory: no file at"),
        ({"defenses": "mine=nowhere:factory"}, r"is given as NAME=FILE\.py:factory, not 'mine=nowhere:factory'"),
        ({"defenses": f"hedge={JPEG}"}, "'hedge' is one of this package's own defenses; choose another name"),
        ({"defenses": f"mine-3={JPEG}"}, "must not end like loir-50"),
        (
            {"defenses": f"mine={JPEG}", "defense_arg": {"mine.qualty": 3}},
            "no argument 'qualty'; .* did you mean 'quality'",
        ),
        ({"defenses": f"mine={JPEG}", "defense_arg": {"mine.quality": 2.5}}, r"mine\.quality: expected a whole number"),
        (
            {"defenses": f"mine={JPEG}", "defense_arg": {"other.quality": 3}},
            "no defense has the argument 'other.quality'",
        ),
        (
            {"defenses": f"mine={TWO_PASSES}", "defense_arg": {"mine.ranking": "lior"}},
            "expected one of cdir, loir, random, not 'lior'",
        ),
    ],
)
def test_a_wrong_entry_is_told(tmp_path: Path, given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        run_evaluation(tmp_path / "results", **given)
    assert not (tmp_path / "results").exists()
