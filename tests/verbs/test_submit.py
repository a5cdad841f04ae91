"""What `igd submit` takes along, and what it refuses before anything is uploaded."""

from pathlib import Path

import pytest
import yaml

from igd_ray.cli import main
from igd_ray.verbs.submit import stage


def test_code_and_named_files_go_along_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, folder = tmp_path / "here", tmp_path / "job"
    here.mkdir()
    folder.mkdir()
    for name in ("net.py", "net.pt", "names.txt", "private.parquet"):
        (here / name).write_text(name)
    (here / "settings.yaml").write_text("weights: net.pt\nn: 3\nseed: 4\n")
    monkeypatch.chdir(here)
    flags = ["--config", "settings.yaml", "--model", "net.py:factory", "--classes", "names.txt", "--n", "5"]
    words = stage("evaluate", [*flags, "--catalog", "/shared/results", "--json"], folder)
    assert words == ["--json", "--config=settings.yaml"]
    values = yaml.safe_load((folder / "settings.yaml").read_text())
    assert (values["n"], values["seed"], values["catalog"]) == (5, 4, "/shared/results")
    assert values["model"].endswith("/net.py:factory")
    for name, content in ((values["model"].partition(":")[0], "net.py"), (values["weights"], "net.pt")):
        assert not Path(name).is_absolute()
        assert (folder / name).read_text() == content
    assert (folder / values["classes"]).read_text() == "names.txt"
    assert (folder / "igd_ray" / "cli.py").is_file()
    assert list(folder.rglob("*.parquet")) == []
    assert list(folder.rglob("views/*.sql")), "the views go along"


def test_a_training_says_what_is_trained(tmp_path: Path) -> None:
    assert stage("train", ["sodef", "--catalog", "/shared/results"], tmp_path) == ["--config=settings.yaml", "sodef"]


@pytest.mark.parametrize(("weights", "copied"), [("net.pt#model_ema", True), ("own", False)])
def test_a_part_of_a_checkpoint_and_the_factory_s_own_weights_stay_what_they_are(
    weights: str, copied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("net.py", "net.pt"):
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "job"
    folder.mkdir()
    flags = ["--model", "net.py:factory", "--weights", weights, "--data", "hf:uoft-cs/cifar10"]
    stage("evaluate", [*flags, "--catalog", "/shared/results"], folder)
    values = yaml.safe_load((folder / "settings.yaml").read_text())
    file, mark, part = values["weights"].partition("#")
    assert (mark + part, (folder / file).is_file()) == ("#model_ema" if copied else "", copied)


def test_modules_beside_the_factory_go_along_beside_it(tmp_path: Path) -> None:
    here, folder = tmp_path / "here", tmp_path / "job"
    here.mkdir()
    folder.mkdir()
    for name, text in {"net.py": "import blocks\n", "blocks.py": "from torch import nn\n", "other.py": ""}.items():
        (here / name).write_text(text)
    stage("evaluate", [f"--model={here / 'net.py'}:factory", "--catalog=/shared/results"], folder)
    file = folder / yaml.safe_load((folder / "settings.yaml").read_text())["model"].partition(":")[0]
    assert {path.name: path.read_text() for path in file.parent.iterdir()} == {
        "net.py": "import blocks\n",
        "blocks.py": "from torch import nn\n",
    }


def test_defenses_in_files_go_along(tmp_path: Path) -> None:
    here, folder = tmp_path / "here", tmp_path / "job"
    here.mkdir()
    folder.mkdir()
    for name, text in {"mine.py": "import parts\n", "parts.py": "# parts\n"}.items():
        (here / name).write_text(text)
    defenses = f"none,mine={here / 'mine.py'}:factory,hedge"
    stage("evaluate", ["--defenses", defenses, "--catalog=/shared/results"], folder)
    none, mine, hedge = yaml.safe_load((folder / "settings.yaml").read_text())["defenses"].split(",")
    assert (none, hedge) == ("none", "hedge")
    label, _, spec = mine.partition("=")
    file, _, factory = spec.partition(":")
    assert (label, factory, Path(file).is_absolute()) == ("mine", "factory", False)
    assert (folder / file).read_text() == "import parts\n"
    assert (folder / file).with_name("parts.py").read_text() == "# parts\n"


def test_a_verification_takes_its_flags_and_files_along(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("# a model")
    folder = tmp_path / "job"
    folder.mkdir()
    model = f"{tmp_path / 'net.py'}:factory"
    words = stage("verify", ["--catalog", "/shared/results", "--run", "abc", "--sample", "4", "--model", model], folder)
    given = dict(word.removeprefix("--").split("=", 1) for word in words)
    file, _, factory = given.pop("model").partition(":")
    assert given == {"catalog": "/shared/results", "run-id": "abc", "sample": "4", "device": "auto"}
    assert ((folder / file).read_text(), factory) == ("# a model", "factory")
    assert not (folder / "settings.yaml").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "takes one of rank, train, search, evaluate, analyze, report, verify, not nothing"),
        (["evalute"], "did you mean 'evaluate'"),
        (["evaluate"], "--catalog results: a job runs in a copy"),
        (["evaluate", "--catalog", "s3://bucket/results", "--data", "folder:mine"], "--data mine: a job runs"),
        (["verify", "--catalog", "results"], "--catalog results: a job runs"),
        (["report", "--catalog", "/shared/results", "--output", "report.html"], "--output report.html: a job runs"),
        (["report", "--catalog", "/shared/results", "--compare", "a", "b"], "--compare only prints what is there"),
        (["rank", "--catalog", "/shared/results", "--show", "cat"], "--show only prints what is there"),
        (["evaluate", "--catalog", "/shared/results", "--attacks", "nonsense"], "nonsense"),
        (["evaluate", "--catalog", "/shared/results", "--model", "none.py:f"], "cannot read none.py"),
    ],
)
def test_what_a_job_could_not_use_is_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["submit", "--address", "http://127.0.0.1:9", *words]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.count("\n") == 1


def test_no_cluster_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "--address", "http://127.0.0.1:9", "rank", "--catalog", "/shared/results"]) == 1
    captured = capsys.readouterr()
    assert "no Ray cluster takes jobs at http://127.0.0.1:9" in captured.err
