"""Settings files made to take memory, time or a long error line: refused in one short line."""

from pathlib import Path

import pytest

from igd_ray.cli import main
from igd_ray.config import EvaluateSettings, load_settings
from igd_ray.errors import InputError

# Each line is ten of the line before: the last stands for 10 000 000 000 values.
ALIASES = "a0: &a0 [x]\n" + "".join(
    f"a{line}: &a{line} [{', '.join([f'*a{line - 1}'] * 10)}]\n" for line in range(1, 11)
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: &one 1\nn: *one\n", "alias *one is not taken"),
        (ALIASES, "alias *a0 is not taken"),
        ("model_arg: &m {x: 1}\ndefense_arg: {<<: *m}\n", "alias *m is not taken"),
        ("model_arg: &m {x: *m}\n", "alias *m is not taken"),
        ("n: " + "[" * 3000 + "]" * 3000, "nested more than 16 deep"),
        ("n: " + "[" * 90_000, "nested more than 16 deep"),
        ("n: " + "{a: " * 3000, "nested more than 16 deep"),
        ("- " * 3000, "nested more than 16 deep"),
        ("n: " + "1" * 5000, "more than 1000 characters"),
        ("n: 1" + ":1" * 40_000, "more than 1000 characters"),
        ("x" * 1001 + ": 1", "more than 1000 characters"),
        ("n: 2001-99-99", "month must be in 1..12"),
        ("n: [" + "word, " * 2000 + "]", "not ['word', 'word'"),
        ("# long\n" * 20_000, "exceeds 100000 bytes"),
        ('catalog: "a\\0b"', "has the character NUL"),
    ],
    ids=range(15),
)
def test_hostile_settings_are_refused_in_a_short_line(text: str, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as caught:
        load_settings(EvaluateSettings, file=file, given={})
    message = str(caught.value).replace(str(file), "FILE")
    assert expected in message
    assert len(message) < 400
    assert "\n" not in message


def test_an_anchor_without_an_alias_is_only_a_name(tmp_path: Path) -> None:
    (tmp_path / "settings.yaml").write_text("seed: &chosen 7\nmodel_arg: {widths: [[1, 2], [3]]}\n")
    settings = load_settings(EvaluateSettings, file=tmp_path / "settings.yaml", given={})
    assert (settings.seed, settings.model_arg) == (7, {"widths": [[1, 2], [3]]})


@pytest.mark.parametrize(
    "words", [["check", "--catalog", "\0"], ["check", "\0.py:f"], ["evaluate", "--method", "a=\0.py:C"]]
)
def test_no_argument_of_a_program_has_a_nul(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    assert capsys.readouterr().err.endswith("expected a text without the character NUL\n")
