"""`--method NAME=FILE.py:CLASS`: a ranking of the user's own, in rank, search and evaluate; and what is refused."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from igd_ray.catalog import Catalog, run_query
from igd_ray.cli import main
from igd_ray.config import RankSettings, load_settings
from igd_ray.planning.workspace import Workspace
from igd_ray.ranking import RANKINGS
from igd_ray.units.ranking import read_ranking
from igd_ray.verbs.submit import stage
from tests.toys.runs import rows

OWN = Path(__file__).parents[1] / "toys" / "own_rankings"
SMALL = ["--n", "6", "--probe-n", "100", "--search-n", "50", "--executor", "local", "--json"]


@pytest.fixture(autouse=True)
def registry() -> Iterator[None]:
    """Forget what a test registers."""
    before = dict(RANKINGS)
    yield
    for name in set(RANKINGS) - set(before):
        del RANKINGS[name]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A copy of the user's folder, to change; the path of the ranking in it."""
    return Path(shutil.copytree(OWN, tmp_path / "own")) / "powered_activation.py"


def ranking_id(file: Path, catalog: Path, *more: str, capsys: pytest.CaptureFixture[str]) -> str:
    method = f"mine={file}:PoweredActivation"
    assert main(["rank", "--method", method, "--catalog", str(catalog), *SMALL, *more]) == 0
    return str(json.loads(capsys.readouterr().out)[0]["ranking_id"])


def test_it_is_ranked_evaluated_and_searched(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    catalog, method = tmp_path / "r", f"mine={file}:PoweredActivation"
    common = ["--method", method, "--method-arg", "mine.power=2", "--catalog", str(catalog), *SMALL]
    found = ranking_id(file, catalog, "--method-arg", "mine.power=2", capsys=capsys)
    workspace = Workspace(load_settings(RankSettings, file=None, given={"probe_n": 100, "search_n": 50}))
    inputs: list[torch.Tensor] = []
    workspace.model.linear.register_forward_pre_hook(lambda _module, arguments: inputs.append(arguments[0]))
    workspace.model(workspace.probe.images)
    squares = inputs[0].double() ** 2
    means = torch.stack([squares[workspace.probe.labels == label].mean(dim=0) for label in range(10)])
    torch.testing.assert_close(read_ranking(Catalog(catalog), found).scores, means, rtol=1e-5, atol=1e-7)
    assert main(["evaluate", "--defenses", "none,mine-16", "--attacks", "clean", *common]) == 0
    assert main(["search", "--tolerance", "1", "--ks", "8,16", *common]) == 0
    assert {row["defense"] for row in rows(catalog)} == {"none", "mine-16"}
    methods = "SELECT DISTINCT method, ranking_id FROM rankings UNION SELECT DISTINCT method, ranking_id FROM trials"
    assert run_query(Catalog(catalog), methods).to_pylist() == [{"method": "mine", "ranking_id": found}]


def test_its_identity_is_its_code_and_its_settings(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog = tmp_path / "r"
    first = ranking_id(file, catalog, capsys=capsys)
    (file.parent / "unrelated.py").write_text("# a comment elsewhere\n")
    assert ranking_id(file, catalog, capsys=capsys) == first
    moved = Path(shutil.copytree(file.parent, tmp_path / "elsewhere")) / file.name
    assert ranking_id(moved, catalog, capsys=capsys) == first
    changed = {ranking_id(file, catalog, "--method-arg", "mine.power=3", capsys=capsys)}
    beside = file.parent / "powers.py"
    beside.write_text(beside.read_text().replace("values**power", "values * power"))
    changed.add(ranking_id(file, catalog, capsys=capsys))
    file.write_text(file.read_text().replace('state["totals"] /', '2 * state["totals"] /'))
    changed.add(ranking_id(file, catalog, capsys=capsys))
    assert len(changed | {first}) == 4


def test_a_job_takes_its_files_along(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    words = ["--method", f"loir,mine={file}:PoweredActivation", "--catalog", "/somewhere"]
    assert stage("rank", words, folder) == ["--config=settings.yaml"]
    settings = (folder / "settings.yaml").read_text()
    assert str(file.parent) not in settings
    assert sorted(path.name for path in folder.rglob("inputs/*/*.py")) == ["powered_activation.py", "powers.py"]


BODY = """
import sys
from dataclasses import dataclass
import torch
from igd_ray.ranking import StatisticRanking

@dataclass(frozen=True)
class Mine(StatisticRanking):
    top: int = 3

    def update(self, batch):
        {update}

    def compute(self, state):
        {compute}
"""
UPDATE = 'return {"sum": batch.images.sum()[None]}'
COMPUTE = "return state['sum'] * torch.ones(len(self.class_names), self.layer.width)"


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import sys\nsys.exit(0)\n", "ranking file mine.py calls sys.exit or os._exit (status 0)"),
        ("raise KeyError('a')\n", "ranking file mine.py: KeyError: 'a'"),
        ("print('hello')\n" + BODY, "ranking file mine.py prints 'hello'"),
        ("Mine = 3\n", "mine.py: Mine must be a subclass of"),
        (
            "def Mine(model): pass\n",
            "such as the factory of a defense, and no ranking",
        ),
        ("from igd_ray.ranking import StatisticRanking as Mina\n", "has no class 'Mine'; did you mean 'Mina'"),
        ("from igd_ray.ranking import StatisticRanking\nclass Mine(StatisticRanking): pass\n", "lacks compute, update"),
        (BODY.replace("top: int = 3", "top: int"), "TypeError"),
        (BODY.replace("top: int = 3", "top: object = print"), "Mine: its fields are its settings, and must be numbers"),
    ],
)
def test_a_file_that_is_not_a_ranking_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], code: str, message: str
) -> None:
    refused(tmp_path, capsys, code.replace("{update}", UPDATE).replace("{compute}", COMPUTE), message)


@pytest.mark.parametrize(
    ("update", "compute", "message"),
    [
        ("sys.exit(0)", COMPUTE, "Mine.update calls sys.exit or os._exit (status 0)"),
        ("raise RuntimeError('boom')", COMPUTE, "Mine.update: RuntimeError: boom"),
        (f"print('hi'); {UPDATE}", COMPUTE, "Mine.update prints 'hi'"),
        ("return 3", COMPUTE, "Mine.update must return tensors by name, not int"),
        (f"batch.model.train(); {UPDATE}", COMPUTE, "Mine.update changes the model's weights or mode"),
        (f"batch.model.linear.weight.data.zero_(); {UPDATE}", COMPUTE, "changes the model's weights or mode"),
        ('return {"sum": torch.rand(1)}', COMPUTE, "Mine.update gives two states for one batch"),
        (UPDATE, "return torch.ones(2, 3)", "must return float scores [10, 64], not torch.float32 [2, 3]"),
        (UPDATE, "return 1", "Mine.compute must return float scores [10, 64], not int"),
        (UPDATE, "sys.exit(0)", "Mine.compute calls sys.exit or os._exit"),
    ],
)
def test_a_ranking_that_does_not_keep_the_contract_is_refused_before_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], update: str, compute: str, message: str
) -> None:
    refused(tmp_path, capsys, BODY.replace("{update}", update).replace("{compute}", compute), message)


def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], code: str, message: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(code)
    assert main(["rank", "--method", f"mine={file}:Mine", "--catalog", str(tmp_path / "r"), *SMALL]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("igd: error: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["rank", "--method", "loir={file}:PoweredActivation"], "'loir' is a name of this package"),
        (["rank", "--method", "hedge={file}:PoweredActivation"], "'hedge' is a name of this package"),
        (["rank", "--method", "mine-5={file}:PoweredActivation"], "does not end in a number"),
        (["rank", "--method", "mine=missing.py:Mine"], "no file at"),
        (["rank", "--method", "mine={file}"], "a ranking of your own is given as NAME=FILE.py:CLASS"),
        (["rank", "--method", "mine={file}:Powered"], "has no class 'Powered'"),
        (["rank", "--method", "mine={file}:PoweredActivation", "--method-arg", "mine.powr=2"], "did you mean 'power'"),
        (["rank", "--method", "mine={file}:PoweredActivation", "--method-arg", "mine.power=x"], "not 'x'"),
        (["rank", "--method-arg", "loir.signed=true"], "the package's own have flags of their own"),
        (["evaluate", "--method", "loir", "--defenses", "loir-8"], "expected a ranking in a file"),
        (["evaluate", "--method", "mine={file}:PoweredActivation"], "add mine-K to --defenses"),
        (["evaluate", "--defenses", "mine-8"], "unknown defense 'mine-8'"),
    ],
)
def test_names_and_arguments_that_do_not_fit_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    given = [word.replace("{file}", str(OWN / "powered_activation.py")) for word in words]
    assert main([*given, "--catalog", str(tmp_path / "r"), *SMALL]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "r").exists()
