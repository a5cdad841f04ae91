"""`igd zoo`: the shipped table, what of it is asked for, and a check that can be stopped and gone on with."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from igd_ray.cli import main
from igd_ray.models.zoo import Entry, zoo_entries
from igd_ray.verbs.zoo import TABLE, matching
from igd_ray.verification.zoo import ZooFinding
from tests.toys.commands import run_python

ROWS = json.loads(TABLE.read_text())["models"]
NAMES = [f"{row['dataset']}/{row['threat']}/{row['name']}" for row in ROWS]


def test_the_table_has_every_model_of_robustbench_in_its_order() -> None:
    assert [str(entry) for entry in zoo_entries()] == NAMES


def test_the_table_says_of_every_model_what_it_is_or_why_it_is_not_supported() -> None:
    columns = list(ZooFinding.__dataclass_fields__)
    for row in ROWS:
        assert list(row) == columns
        assert row["family"]
        assert row["parameters"] > 1e6
        if row["supported"]:
            assert row["width"] >= 64, row
            assert row["reason"] == ""
        else:
            assert row["reason"], row


def test_all_but_ensembles_and_mixtures_are_supported() -> None:
    assert {row["family"] for row in ROWS if not row["supported"]} == {"ensemble", "mixture"}
    assert not any(row["supported"] for row in ROWS if row["family"] in ("ensemble", "mixture"))


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("cifar10/Linf/Addepalli2022Efficient_RN18", 512),
        ("cifar10/Linf/Addepalli2022Efficient_WRN_34_10", 640),
        ("cifar10/Linf/Wu2020Adversarial", 640),
        ("cifar100/Linf/Addepalli2021Towards_PARN18", 512),
        ("cifar100/Linf/Jia2022LAS-AT_34_10", 640),
        ("imagenet/Linf/Wong2020Fast", 2048),
        ("imagenet/Linf/Salman2020Do_R50", 2048),
    ],
)
def test_the_base_models_of_the_paper_are_supported(name: str, width: int) -> None:
    row = ROWS[NAMES.index(name)]
    assert (row["supported"], row["width"]) == (True, width)


def test_parameters_are_those_of_the_known_architectures() -> None:
    parameters = dict(zip(NAMES, (row["parameters"] for row in ROWS), strict=True))
    # torchvision's documentation of ResNet-18 and ResNet-50, timm's of ConvNeXt-B, and the WRN paper's 36.5 M.
    assert parameters["imagenet/Linf/Salman2020Do_R18"] == 11_689_512
    assert parameters["imagenet/Linf/Salman2020Do_R50"] == 25_557_032
    assert parameters["imagenet/Linf/Liu2023Comprehensive_ConvNeXt-B"] == 88_591_464
    assert round(parameters["cifar10/Linf/Standard"] / 1e6, 1) == 36.5


def test_the_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == ROWS


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("salman2020do", ["Salman2020Do_R50", "Salman2020Do_R18", "Salman2020Do_50_2"]),
        ("*_RN18", ["Addepalli2021Towards_RN18", "Addepalli2022Efficient_RN18", "Addepalli2022Efficient_RN18"]),
        ("cifar100/*_RN18", ["Addepalli2022Efficient_RN18"]),
        ("cifar100/Linf/Wu", ["Wu2020Adversarial"]),
        ("Wong2020Fas?", ["Wong2020Fast", "Wong2020Fast"]),
    ],
)
def test_a_pattern(pattern: str, found: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", pattern, "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == found
    assert main(["zoo", pattern]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["dataset", "threat", "name", "family", "supported", "width", "parameters", "reason"]
    assert [line.split()[2] for line in lines[1:-1]] == found
    assert lines[-1] == f"{len(found)} of {len(found)} supported"


def test_the_summary_counts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    supported = sum(row["supported"] for row in ROWS)
    assert len(lines) == 2 + len(ROWS)
    assert lines[-1] == f"{supported} of {len(ROWS)} supported"


def test_the_list_does_not_wait_for_torch() -> None:
    program = (
        "import sys; sys.modules.update(torch=None, robustbench=None);"
        "from igd_ray.cli import main; sys.exit(main(['zoo', 'Standard']))"
    )
    done = run_python(program)
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 of 3 supported" in done.stdout


@pytest.mark.parametrize("check", [[], ["--check"]])
@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("Wong2020Fats", "; did you mean 'Wong2020Fast'"),
        ("cifar10/Linf/Wong2020Fats", "; did you mean 'Wong2020Fast'"),
        ("*zzz*", ""),
        ("corruptions", ""),
    ],
)
def test_a_pattern_without_a_match(
    pattern: str, hint: str, check: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--output", str(tmp_path / "zoo.json")] if check else []
    assert main(["zoo", pattern, *check, *output]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"igd: error: no model of the zoo matches '{pattern}'; expected part of")
    assert hint in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "zoo.json"], "--output goes with --check"),
        (["--check", "--output", "no/such/folder/zoo.json"], "there is no folder no/such/folder"),
        (["--chekc"], "did you mean '--check'"),
    ],
)
def test_bad_input(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


Check = Callable[[Entry], ZooFinding]


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the check of an entry by its row in the table; the names checked are appended."""
    names: list[str] = []

    def check_entries(entries: Sequence[Entry]) -> Iterator[tuple[ZooFinding, float]]:
        for entry in entries:
            names.append(str(entry))
            yield ZooFinding(**ROWS[NAMES.index(str(entry))]), 0.1

    monkeypatch.setattr("igd_ray.verification.zoo.check_entries", check_entries)
    return names


def test_a_check_prints_a_row_a_model_and_its_progress(checked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "--check", "cifar10/Linf/*2020Adversarial"]) == 0
    captured = capsys.readouterr()
    lines = [line.split() for line in captured.out.splitlines()]
    assert [line[2] for line in lines[1:-1]] == ["Chen2020Adversarial", "Wu2020Adversarial"]
    assert lines[1][3:5] == ["ensemble", "no"]
    assert lines[2][3:7] == ["WRN", "yes", "640", "46160474"]
    assert captured.out.splitlines()[-1] == "1 of 2 supported"
    assert "zoo: 2/2" in captured.err


def test_a_check_as_json(checked: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "--check", "Salman", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == matching(ROWS, "Salman")


def test_a_model_that_is_lost_is_exit_code_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def check_entries(entries: Sequence[Entry]) -> Iterator[tuple[ZooFinding, float]]:
        for entry in entries:
            lost = entry.name == "Salman2020Do_R18"
            row = {**ROWS[NAMES.index(str(entry))], "supported": not lost, "reason": "it broke" if lost else ""}
            yield ZooFinding(**row), 0.1

    monkeypatch.setattr("igd_ray.verification.zoo.check_entries", check_entries)
    assert main(["zoo", "--check", "Salman2020Do_"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 3 + 2  # it goes on behind the failure
    assert lines[-2:] == [
        "2 of 3 supported",
        "listed as supported, but is not: imagenet/Linf/Salman2020Do_R18: it broke",
    ]


def test_the_output_is_the_table_with_the_rows_found(checked: list[str], tmp_path: Path) -> None:
    output = tmp_path / "zoo.json"
    assert main(["zoo", "--check", "cifar100", "--output", str(output)]) == 0
    assert json.loads(output.read_text())["models"] == ROWS
    assert set(checked) == {name for name in NAMES if name.startswith("cifar100")}
    assert [path.name for path in tmp_path.iterdir()] == ["zoo.json"]


@pytest.mark.parametrize("cut", [0, 20], ids=["between rows", "within a row"])
def test_an_interrupted_check_goes_on(
    cut: int, checked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:

    from igd_ray.verification import zoo

    whole = zoo.check_entries
    arguments = ["zoo", "--check", "Salman2020Do_", "--output", str(tmp_path / "zoo.json")]

    def interrupted(entries: Sequence[Entry]) -> Iterator[tuple[ZooFinding, float]]:
        yield from whole(entries[:2])
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("igd_ray.verification.zoo.check_entries", interrupted)
        assert main(arguments) == 130
    assert "run the same command again to go on" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["zoo.json.partial"]
    if cut:
        partial = tmp_path / "zoo.json.partial"
        partial.write_bytes(partial.read_bytes()[:-cut])
    checked.clear()
    assert main(arguments) == 0
    assert len(checked) == (2 if cut else 1)
    assert "already there" in capsys.readouterr().err
    assert json.loads((tmp_path / "zoo.json").read_text())["models"] == ROWS
    assert [path.name for path in tmp_path.iterdir()] == ["zoo.json"]


def test_rows_of_other_versions_are_found_again(
    checked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "zoo.json.partial").write_text('{"robustbench": "0.1"}\n' + json.dumps(ROWS[0]) + "\n")
    assert main(["zoo", "--check", str(ROWS[0]["name"]), "--output", str(tmp_path / "zoo.json")]) == 0
    assert checked == [NAMES[0]]


def test_an_interrupted_check_without_an_output_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(entries: Sequence[Entry]) -> Iterator[tuple[ZooFinding, float]]:
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("igd_ray.verification.zoo.check_entries", interrupted)
    assert main(["zoo", "--check", "Salman"]) == 130
    assert "with --output FILE" in capsys.readouterr().err


def test_a_real_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["zoo", "--check", "cifar10/Linf/Ding2020MMA", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == matching(ROWS, "cifar10/Linf/Ding2020MMA")
