"""The science needs no Ray, and the catalog and the report need no PyTorch."""

import subprocess
import sys
from pathlib import Path

from igd_ray.catalog import Catalog

PROGRAM = """
import importlib, pkgutil, sys
{blocked}
import igd_ray
for module in pkgutil.walk_packages(igd_ray.__path__, "igd_ray."):
    if {chosen}:
        importlib.import_module(module.name)
        print(module.name)
assert not {blocked_names} & set(name for name in sys.modules if sys.modules[name] is not None)
"""


def imported(chosen: str, blocked: set[str]) -> list[str]:
    lines = "\n".join(f"sys.modules[{name!r}] = None" for name in sorted(blocked))
    program = PROGRAM.format(blocked=lines, chosen=chosen, blocked_names=blocked)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_everything_but_the_cluster_imports_without_ray() -> None:
    modules = imported('".cluster" not in module.name', {"ray"})
    assert "igd_ray.planning.evaluation" in modules
    assert "igd_ray.verbs.evaluate" in modules


def test_catalog_and_report_import_without_torch() -> None:
    modules = imported('module.name.startswith(("igd_ray.catalog", "igd_ray.report"))', {"torch", "ray"})
    assert "igd_ray.report.html" in modules


def test_a_question_in_sql_waits_for_nothing_that_it_does_not_need(tmp_path: Path) -> None:
    Catalog(tmp_path).create()
    program = (
        "import sys; from igd_ray.cli import main;"
        "assert main(['sql', 'SELECT 1', '--catalog', sys.argv[1]]) == 0;"
        "print({'matplotlib', 'pandas', 'pyarrow.dataset', 'rich', 'jinja2', 'yaml', 'torch'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "set()", done.stdout + done.stderr
