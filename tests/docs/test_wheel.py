"""The wheel holds everything: verbs run from it where no clone is on Python's path."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.toys.places import REPOSITORY

# Runs `igd` with the package in the folder of the first argument, and with none of a clone.
IGD = """
import sys
from pathlib import Path

site = sys.argv.pop(1)
sys.path[:] = [site, *(place for place in sys.path if not (Path(place) / "igd_ray" / "cli.py").is_file())]
import igd_ray

assert Path(igd_ray.__file__).is_relative_to(site), igd_ray.__file__
from igd_ray.cli import main

sys.exit(main(sys.argv[1:]))
"""

# Files of the package that no import statement names.
DATA = ("*.sql", "*.html", "*.js", "*.json", "*.safetensors")


@pytest.fixture(scope="module")
def uv() -> str:
    found = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert found is not None, "make installs uv"
    return found


@pytest.fixture(scope="module")
def wheel(uv: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [uv, "build", "--wheel", "--quiet", "--python", sys.executable, "--out-dir", str(folder), str(REPOSITORY)]
    # What builds it is in uv's cache where `make` has set up the environment.
    if subprocess.run([*build, "--offline"], capture_output=True).returncode != 0:
        subprocess.run(build, check=True)
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def site(uv: str, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    install = [uv, "pip", "install", "--quiet", "--offline", "--no-deps", "--python", sys.executable]
    subprocess.run([*install, "--target", str(folder), str(wheel)], check=True)
    return folder


@pytest.mark.slow
def test_the_wheel_has_the_sql_and_every_file_of_the_package(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    package = REPOSITORY / "igd_ray"
    expected = {str(file.relative_to(REPOSITORY)) for suffix in ("*.py", *DATA) for file in package.rglob(suffix)}
    for kind in ("views", "queries"):
        expected |= {
            f"igd_ray/catalog/sql/{kind}/{file.name}" for file in (REPOSITORY / "catalog" / kind).glob("*.sql")
        }
    assert len(expected) > 200
    assert expected - inside == set()
    assert not [name for name in inside if name.startswith("tests/")]


@pytest.mark.slow
def test_verbs_run_from_the_wheel_in_an_empty_folder(site: Path, tmp_path: Path) -> None:
    def igd(*words: str) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            [sys.executable, "-c", IGD, str(site), *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    assert "rank, search, attack and report" in igd("demo", "--help")
    small = ("--n", "4", "--probe-n", "100", "--search-n", "40", "--executor", "local")
    rows = json.loads(igd("evaluate", *small, "--defenses", "none,loir-8,cdir-8", "--attacks", "fgsm", "--json"))
    assert [row["defense"] for row in rows] == ["none", "cdir-8", "loir-8"]
    assert "cdir-8" in igd("sql", "--file", "accuracy_table")
    assert "report: results/report.html" in igd("report")
    assert "card, verdicts and 3 leaderboard entries" in igd("export")
    assert "cifar10" in igd("zoo")
    assert "complete" in igd("completion", "bash")
