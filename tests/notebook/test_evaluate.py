"""`igd_ray.evaluate` gives a program the tables of `igd evaluate`, of models and defenses that it holds itself."""

import json
import linecache
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import igd_ray
from igd_ray.catalog import Catalog
from igd_ray.cli import main
from igd_ray.data import load_images
from igd_ray.errors import InputError
from igd_ray.models import load_model, model_fingerprint
from igd_ray.notebook.in_memory import memory_model

SMALL = {"probe_n": 100, "search_n": 50, "shard_size": 8}
FLAGS = ["--probe-n", "100", "--search-n", "50", "--shard-size", "8", "--executor", "local"]

FILE = """
from torch import nn
from igd_ray.models.demo import demo_model

class Darker(nn.Module):
    def __init__(self, model, share):
        super().__init__()
        self.model, self.share = model, share
    def forward(self, x):
        return self.model(self.share * x)

def network():
    return Darker(demo_model(), 0.95)

def factory(model, share=0.9):
    return Darker(model, share)
"""

CELL = """
import torch
from torch import nn

LEVELS = 4

def rounded(x):
    return (x * LEVELS).round() / LEVELS

class Rounded(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model
    def forward(self, x):
        return self.model(x + (rounded(x) - x).detach())
"""


class Noisy(nn.Module):
    """The base model on images with noise from a generator of its own."""

    def __init__(self, model: nn.Module, generator: torch.Generator) -> None:
        super().__init__()
        self.model, self.generator = model, generator

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.model(x + 0.1 * torch.randn(x.shape, generator=self.generator).to(x))
        return logits


def cell(text: str, name: str, *, source: bool = True) -> dict[str, Any]:
    """What running a cell of a notebook defines; as there, the source is in the cache of lines."""
    if source:
        linecache.cache[name] = len(text), None, text.splitlines(keepends=True), name
    defined: dict[str, Any] = {"__name__": "__main__"}
    exec(compile(text, name, "exec"), defined)
    return defined


def run_id(text: str, name: str, catalog: Path) -> str:
    """The run of the defense that a cell defines."""
    model = load_model("demo")
    found = igd_ray.evaluate(
        model,
        load_images("digits", n=8),
        defenses={"mine": cell(text, name)["Rounded"](model)},
        attacks=["clean"],
        catalog=catalog,
    )
    return found.run_id


def test_the_numbers_are_those_of_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "own.py"
    file.write_text(FILE)
    spec, attacks = f"{file}:network", "apgd-ce-5,tr-apgd-ce-5,audit-transfer-start-5"
    model = load_model(spec, weights="own")
    given: dict[str, Any] = {"attacks": attacks.split(","), "attack_seed": 0, "catalog": tmp_path / "memory", **SMALL}
    own = type(model)(model, 0.9)
    found = igd_ray.evaluate(model, load_images("digits", n=16), defenses={"loir-8": None, "mine": own}, **given)
    command = ["evaluate", "--model", spec, "--weights", "own", "--n", "16", "--catalog", str(tmp_path / "file")]
    command += ["--defenses", f"none,loir-8,mine={file}:factory", "--attacks", attacks, "--attack-seed", "0", *FLAGS]
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    by_attack = {"attacked", "broken", "audit_attacked", "newly_broken"}
    shown = [{name: value for name, value in row.items() if name not in by_attack} for row in printed]
    assert [dict(row) for row in found.worst_case] == shown
    assert [row["defense"] for row in shown] == ["none", "loir-8", "mine"]
    assert 0 < shown[0]["worst_case"] < shown[0]["clean"]
    broken = {(row["defense"], row["attack"]): row["broken"] for row in found.accuracy}
    assert {(row["defense"], name): count for row in printed for name, count in row["broken"].items()}.items() <= (
        broken.items()
    )
    assert main(command) == 0
    # In another catalog, and of another defense "mine": all but the run's id.
    assert str(found).splitlines()[1:] == capsys.readouterr().out.splitlines()[1:]
    assert found.outcomes.num_rows == 3 * 3 * 16
    assert found.outcomes.num_rows == sum(row["n"] for row in found.accuracy)


def test_a_loaded_model_takes_the_results_of_the_command_line(tmp_path: Path) -> None:
    catalog = str(tmp_path / "results")
    command = ["evaluate", "--n", "8", "--attacks", "apgd-ce-3", "--shard-size", "8", "--catalog", catalog]
    assert main([*command, "--executor", "local"]) == 0
    files = len(list((tmp_path / "results" / "outcomes").rglob("*.parquet")))
    found = igd_ray.evaluate(
        load_model("demo"), load_images("digits", n=8), attacks=["apgd-ce-3"], catalog=catalog, shard_size=8
    )
    again = igd_ray.evaluate("demo", "digits", n=8, attacks=["apgd-ce-3"], catalog=catalog, shard_size=8)
    assert found.run_id == again.run_id
    assert len(list((tmp_path / "results" / "outcomes").rglob("*.parquet"))) == files > 0


def test_tables_are_shown_in_notebooks_and_kept_where_the_result_says() -> None:
    digits = load_images("digits", n=8)
    found = igd_ray.evaluate("demo", (digits.images, digits.labels), attacks=["fgsm"], eps=0.1, norm="linf")
    assert Path(found.catalog).is_dir()
    assert Catalog(found.catalog).has("runs", found.run_id)
    assert "<th>worst_case</th>" in found.worst_case._repr_html_()
    assert found._repr_html_().startswith("<table><caption>Run ")
    assert found.accuracy.arrow.column_names[:2] == ["defense", "attack"]
    assert len(found.worst_case) == 1
    assert found.worst_case[0]["n"] == 8
    assert set(found.outcomes["epsilon"].to_pylist()) == {0.1}
    assert "worst_case" in str(found.worst_case)


def test_cells_are_told_apart_by_what_they_compute(tmp_path: Path) -> None:
    before = run_id(CELL, "<cell 1>", tmp_path)
    assert run_id(CELL, "<cell 2>", tmp_path) == before
    assert run_id(CELL + "\n# a comment behind it\n", "<cell 3>", tmp_path) == before
    others = [
        run_id(CELL.replace("LEVELS = 4", "LEVELS = 5"), "<cell 4>", tmp_path),
        run_id(CELL.replace(".round()", ".floor()"), "<cell 5>", tmp_path),
        run_id(CELL.replace("rounded(x) - x", "0.5 * (rounded(x) - x)"), "<cell 6>", tmp_path),
    ]
    assert len({before, *others}) == 4


def test_a_module_without_source_is_refused_with_what_to_do(tmp_path: Path) -> None:
    model, defined = load_model("demo"), cell(CELL, "<string>", source=False)
    with pytest.raises(InputError, match=r"the source of Rounded was not found.*`igd new defense|attack|ranking NAME`"):
        igd_ray.evaluate(model, "digits", defenses={"mine": defined["Rounded"](model)}, catalog=tmp_path / "results")
    with pytest.raises(InputError, match="the source of Rounded was not found"):
        igd_ray.evaluate(defined["Rounded"](model), "digits", n=8, catalog=tmp_path / "results")
    assert not (tmp_path / "results").exists()


def test_a_model_in_memory_is_known_by_its_code_and_weights() -> None:
    def of(text: str) -> str:
        return memory_model(cell(text, f"<model {hash(text)}>")["Rounded"](load_model("demo"))).fingerprint

    assert of(CELL) == of(CELL)
    assert of(CELL.replace("LEVELS = 4", "LEVELS = 5")) != of(CELL)
    demo = load_model("demo")
    assert memory_model(demo).fingerprint == model_fingerprint(demo)


def test_modules_stay_as_they_are_and_randomness_follows_the_seed() -> None:
    model = load_model("demo").train()
    weight = next(model.parameters()).requires_grad_()
    generator = torch.Generator().manual_seed(5)
    noisy, state = Noisy(model, generator), generator.get_state()
    given: dict[str, Any] = {"defenses": {"mine": noisy}, "attacks": ["apgd-ce-3"], "n": 8}
    one, other = (igd_ray.evaluate(model, load_images("digits", n=40), **given) for _ in range(2))
    assert one.outcomes.drop(["seconds", "attempt", "host"]) == other.outcomes.drop(["seconds", "attempt", "host"])
    assert model.training
    assert weight.requires_grad
    assert noisy.model is model
    assert noisy.generator is generator
    assert torch.equal(generator.get_state(), state)
    assert one.worst_case[1]["noise_failure_rate"] is not None
    assert one.worst_case[0]["n"] == 8


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"defenses": {"loir": nn.Identity()}}, "'loir'"),
        ({"defenses": {"mine-5": nn.Identity()}}, "must not end like loir-50"),
        ({"defenses": {"mine": 3}}, "expected an nn.Module"),
        ({"defenses": {"mine": nn.Softmax(dim=1)}}, "mine"),
        ({"model": "demo", "defenses": {"mine": nn.Identity()}}, "pass the module that they are built around"),
        ({"executor": "ray"}, "runs in this process"),
        ({"data": "digits"}, "pass it as `images`"),
        ({"atacks": "aa"}, "unknown setting 'atacks'"),
        ({"images": (torch.full((2, 1, 8, 8), 2.0), torch.zeros(2, dtype=torch.int64))}, "test images: pixels must"),
        ({"images": (torch.zeros(2, 1, 8, 8), torch.full((2,), 11))}, "labels of 'memory' must lie in 0…9"),
        ({"images": (torch.zeros(2, 3, 4), torch.zeros(2))}, "expected float images"),
        ({"images": 3}, "expected load_images"),
        ({"n": 9}, "has 8 images, but 9 were asked for"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    given = {"model": load_model("demo"), "images": load_images("digits", n=8), "attacks": ["clean"], **changes}
    with pytest.raises(InputError) as caught:
        igd_ray.evaluate(**given, catalog=tmp_path / "results")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "results").exists()


def test_rankings_need_training_images() -> None:
    digits, train = load_images("digits", n=8), load_images("digits", split="train", n=100)
    images = digits.images, digits.labels
    with pytest.raises(InputError, match="pass probe="):
        igd_ray.evaluate(load_model("demo"), images, defenses=["loir-8"], attacks=["clean"])
    found = igd_ray.evaluate(
        load_model("demo"), images, defenses=["loir-8"], attacks=["clean"], probe=(train.images, train.labels)
    )
    assert [row["defense"] for row in found.worst_case] == ["none", "loir-8"]


def test_what_only_a_program_held_cannot_be_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = load_model("demo")
    noisy = Noisy(model, torch.Generator())
    catalog = str(tmp_path / "results")
    igd_ray.evaluate(model, load_images("digits", n=8), defenses={"mine": noisy}, attacks=["clean"], catalog=catalog)
    assert main(["verify", "--catalog", catalog]) == 2
    assert "evaluated what only a program held, memory:DemoResNet, mine=memory:Noisy" in capsys.readouterr().err


def test_importing_the_package_imports_nothing_else() -> None:
    program = "import sys, igd_ray; print({'torch', 'duckdb', 'pyarrow'} & set(sys.modules)); print(igd_ray.evaluate)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[0] == "set()"
    assert "function evaluate" in done.stdout.splitlines()[1]
