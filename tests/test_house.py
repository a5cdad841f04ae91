"""How large files and folders are, and how much of the package a reader goes through with the smallest evaluation."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import igd_ray

MOST_LINES, MOST_FILES_OF_A_FOLDER = 400, 14

MOST_FILES = 55

# Functions and methods that are called count, by their files; lambdas, comprehensions and what importing registers do
# not.
PROGRAM = """
import json, os, sys, threading
from pathlib import Path
import igd_ray.verbs.evaluate
from igd_ray.cli import main

root = os.path.join(os.path.dirname(igd_ray.__file__), "")
entered = {}

def note(frame, event, _argument):
    code = frame.f_code
    if event == "call" and code.co_filename.startswith(root):
        if code.co_flags & 0x2 and not code.co_name.startswith("<"):
            entered.setdefault(code.co_filename.removeprefix(root), set()).add(code.co_qualname)

threading.setprofile(note)
sys.setprofile(note)
code = main(["evaluate", "--attacks", "aa", "--n", "2", "--executor", "local", "--catalog", sys.argv[1]])
sys.setprofile(None)
Path(sys.argv[2]).write_text(json.dumps({file: sorted(names) for file, names in entered.items()}))
sys.exit(code)
"""


def sources() -> list[Path]:
    return list(Path(igd_ray.__file__).parent.rglob("*.py"))


def test_no_file_is_too_long_to_be_read_at_once() -> None:
    lengths = {path: len(path.read_text().splitlines()) for path in sources()}
    assert len(lengths) > 200
    assert {str(path): length for path, length in lengths.items() if length > MOST_LINES} == {}


def test_only_the_folder_of_verbs_has_many_files() -> None:
    counts = Counter(str(path.parent.relative_to(Path(igd_ray.__file__).parent)) for path in sources())
    assert {folder for folder, count in counts.items() if count > MOST_FILES_OF_A_FOLDER} == {"verbs"}


@pytest.mark.slow
def test_the_smallest_evaluation_enters_few_files(tmp_path: Path) -> None:
    found = tmp_path / "entered.json"
    subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path / "results"), str(found)], check=True, text=True)
    entered = json.loads(found.read_text())
    assert {"cli.py", "attacks/auto_attack.py", "units/attack.py"} <= entered.keys(), "the profiler saw the evaluation"
    listed = "\n".join(f"{file}: {', '.join(names)}" for file, names in sorted(entered.items()))
    assert len(entered) <= MOST_FILES, f"{len(entered)} files:\n{listed}"
