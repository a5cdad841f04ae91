"""Whatever is typed, written into a settings file or handed over as a file: it works, or one line says why not.

Each test takes the same few examples each time; `IGD_FUZZ_EXAMPLES` names a number of others. Flags and settings are
fuzzed only then, as each new one changes the examples.
"""

import contextlib
import io
import json
import os
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from igd_ray.cli import main
from igd_ray.config import EvaluateSettings, SearchSettings, load_settings
from igd_ray.data import load_images
from igd_ray.errors import IgdError
from igd_ray.models.checkpoints import read_checkpoint, state_in
from igd_ray.values.plain_yaml import plain_value
from igd_ray.verbs.flags import Parser
from tests.data.encoded import png
from tests.verbs.bad_inputs import OWN, SHARED

pytestmark = pytest.mark.slow

long_only = pytest.mark.skipif("IGD_FUZZ_EXAMPLES" not in os.environ, reason="IGD_FUZZ_EXAMPLES names no number")

fuzzed = settings(
    max_examples=int(os.environ.get("IGD_FUZZ_EXAMPLES", "40")),
    derandomize="IGD_FUZZ_EXAMPLES" not in os.environ,
    deadline=None,  # some examples load a model
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

# What is given elsewhere in the tests, and what people and programs put in its place.
WORDS = sorted({word for row, _ in [*SHARED, *OWN] for word in shlex.split(row)[1:] if "{" not in word})
ODD = ["", " ", "-", "--", "0", "-1", "1e400", "nan", "é", "\0", "a\nb", "../..", "/", "{}", "[", "=", "a=b", "%s", "~"]
VALUES = st.one_of(
    st.sampled_from(WORDS),
    st.sampled_from(ODD),
    st.text(max_size=12),
    st.integers().map(str),
    st.floats().map(str),
    st.lists(st.sampled_from([*WORDS, *ODD]), max_size=3).map(",".join),
    st.builds("{}:{}".format, st.integers(-3, 99), st.integers(-3, 99)),
)
VERBS = [
    *("evaluate", "rank", "search", "train", "analyze", "reproduce"),
    *("report", "status", "sql", "verify", "compact", "zoo", "check", "export"),
]


def _given(verb: str) -> st.SearchStrategy[list[str]]:
    """A verb with some of its flags."""
    parser = Parser(prog=verb)
    import_module(f"igd_ray.verbs.{verb}").add_arguments(parser)
    flags = [
        st.just([option]) if action.nargs == 0 else st.tuples(st.just(option), VALUES).map(list)
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--") and option not in ("--help", "--help-all", "--check")
    ]
    some = st.lists(st.one_of(flags), max_size=4).map(lambda parts: [word for part in parts for word in part])
    named = {"train": "sodef", "analyze": "classwise", "reproduce": "table8"}
    fixed = [verb, named[verb]] if verb in named else [verb]
    # Of those that compute, only the checks before that.
    end = {each: ["--dry-run"] for each in ("evaluate", "search", "analyze", "reproduce")}
    end |= {"rank": ["--nothing"], "train": ["--nothing"]}
    return st.tuples(some, st.lists(VALUES, max_size=1)).map(
        lambda parts: [*fixed, *parts[0], *parts[1], *end.get(verb, [])]
    )


GIVEN = st.one_of([_given(verb) for verb in VERBS])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


def answer(words: list[str]) -> tuple[int, str]:
    """What `igd` returns and says on standard error."""
    stdout, stderr = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            code = main(words)
        except SystemExit as leave:  # --help
            code = int(str(leave.code or 0))
    return code, stderr.getvalue()


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """While open, nothing fails, or with one line."""
    try:
        yield
    except IgdError as error:
        said = str(error)
    else:
        return
    assert "\n" not in said


@long_only
@fuzzed
@given(words=GIVEN)
def test_any_flags(folder: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")  # no Ray starts
    before = sorted(folder.rglob("*"))
    code, said = answer(words)
    assert code in (0, 2), (words, said)
    if code == 2:
        assert said.startswith("igd: error: "), (words, said)
        assert said.count("\n") == 1, (words, said)
        assert sorted(folder.rglob("*")) == before, words


@fuzzed
@given(text=st.one_of(st.text(max_size=60), st.text(alphabet="[]{}:,&*!-?|>'\"%@` \n\t#0a~<.", max_size=60)))
def test_any_text_as_yaml(text: str) -> None:
    with contextlib.suppress(yaml.YAMLError, ValueError):
        plain_value(text)


NAMES = st.sampled_from(sorted({*EvaluateSettings.model_fields, *SearchSettings.model_fields, "none-such"}))
PLAIN = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(WORDS)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=5,
)


@long_only
@fuzzed
@given(
    content=st.dictionaries(NAMES, PLAIN, max_size=4),
    kind=st.sampled_from([EvaluateSettings, SearchSettings]),
)
def test_any_values_in_a_settings_file(folder: Path, content: dict[str, object], kind) -> None:
    file = folder / "settings.yaml"
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    with one_line():
        load_settings(kind, file=file, given={})


def mutated(content: bytes, changes: list[tuple[int, int]], length: int) -> bytes:
    """`content` with bytes changed at places, and cut."""
    changed = bytearray(content)
    for place, value in changes:
        changed[place % len(changed)] = value
    return bytes(changed[: length % (len(changed) + 1)] if length >= 0 else changed)


def _files() -> dict[str, bytes]:
    state = {"layer.weight": torch.zeros(2, 3), "layer.bias": torch.ones(2)}
    buffer = io.BytesIO()
    torch.save({"state_dict": state, "epoch": 3}, buffer)
    image = {"bytes": png(np.zeros((4, 4), np.uint8)), "path": None}
    table = pa.table({"image": [image] * 3, "label": [0, 1, 1]})
    names = json.dumps({"info": {"features": {"label": {"names": ["a", "b"], "_type": "ClassLabel"}}}})
    parquet = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"huggingface": names}), parquet)
    return {"weights.safetensors": save(state), "weights.pt": buffer.getvalue(), "images.parquet": parquet.getvalue()}


FILES = _files()


@fuzzed
@given(
    name=st.sampled_from(sorted(FILES)),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6),
    length=st.one_of(st.just(-1), st.integers(0, 10**6)),
)
def test_any_damage_to_a_file(folder: Path, name: str, changes: list[tuple[int, int]], length: int) -> None:
    file = folder / name
    file.write_bytes(mutated(FILES[name], changes, length))
    with one_line():
        if name == "images.parquet":
            assert load_images(f"parquet:{file}").images.isfinite().all()
        else:
            state_in(read_checkpoint(file), file)
