"""`igd completion SHELL`: what Bash completes, and that every shell's script has every verb."""

import contextlib
import io
import subprocess

import pytest

from igd_ray.cli import main
from igd_ray.verbs import VERBS
from igd_ray.verbs.completion import SHELLS
from tests.toys.commands import igd

ASK = """
source /dev/stdin <<< "$SCRIPT"
set -- $LINE_SO_FAR
COMP_WORDS=("$@" "$LAST"); COMP_CWORD=$#; COMP_LINE="$LINE_SO_FAR $LAST"; COMP_POINT=${#COMP_LINE}
handler=$(complete -p igd | sed -E 's/.*-F ([^ ]+).*/\\1/')
"$handler" igd "$LAST" "${@: -1}" 2>/dev/null
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script() -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["completion", "bash"]) == 0
    return out.getvalue()


@pytest.mark.parametrize(
    ("before", "last", "expected"),
    [
        ("igd", "eval", {"evaluate"}),
        ("igd", "co", {"compact", "completion", "config"}),
        ("igd evaluate", "--save", {"--save-points"}),
        ("igd evaluate --mode", "c", {"cascade"}),
        ("igd evaluate --attacks", "tr-apgd-c", {"tr-apgd-ce", "tr-apgd-cw"}),
        ("igd export", "--poi", {"--points"}),
        ("igd completion", "", set(SHELLS)),
        ("igd config", "s", {"show"}),
    ],
)
def test_bash_completes(script: str, before: str, last: str, expected: set[str]) -> None:
    done = subprocess.run(
        ["bash", "-c", ASK],
        env={"SCRIPT": script, "LINE_SO_FAR": before, "LAST": last, "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert {word.strip() for word in done.stdout.splitlines()} == expected, done.stderr


@pytest.mark.parametrize("shell", SHELLS)
def test_every_shell_s_script_has_every_verb(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = igd(["completion", shell], capsys)
    assert [verb for verb in VERBS if verb not in text] == []
