"""The command line before its verbs: Ctrl-C right after the start, and locales without UTF-8."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.toys.commands import igd_command, run_python

# Sends Ctrl-C when the command line begins to import the module that is named.
INTERRUPTED = """
import os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
for name in [name for name in sys.modules if name == "argparse" or name.startswith("igd_ray")]:
    del sys.modules[name]
from igd_ray.cli import main

sys.exit(main(["sql", "SELECT 1"]))
"""


@pytest.mark.parametrize("module", ["argparse", "igd_ray.errors", "igd_ray.verbs.sql", "duckdb"])
def test_ctrl_c_right_after_the_start_is_told_as_later(module: str) -> None:
    done = run_python(INTERRUPTED, module)
    assert done.returncode == 130, done.stderr
    assert done.stderr == "igd: stopped; every finished unit is kept, run the same command again to go on\n"


ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.slow
def test_names_and_paths_need_no_locale_with_utf8(tmp_path: Path) -> None:
    (tmp_path / "größen.txt").write_text("\n".join(["zéro", *"123456789"]), encoding="utf-8")
    (tmp_path / "frage.sql").write_text("SELECT DISTINCT model AS größe FROM runs", encoding="utf-8")

    def igd(*words: str) -> str:
        done = subprocess.run(igd_command(*words), cwd=tmp_path, env={**os.environ, **ASCII}, capture_output=True)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    small = ["--n=4", "--shard-size=4", "--defenses=none", "--attacks=clean", "--executor=local"]
    igd("evaluate", *small, "--classes=größen.txt", "--catalog=résultats")
    assert "größe" in igd("sql", "--catalog=résultats", "--file=frage.sql", "--format=csv")
    igd("report", "--catalog=résultats", "--output=bericht-ß.html")
    assert "html" in (tmp_path / "bericht-ß.html").read_text(encoding="utf-8")
    assert sys.getfilesystemencoding() == "utf-8", "only the commands ran without"
