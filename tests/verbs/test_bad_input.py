"""What cannot be used is told in one line, with exit code 2, before anything is written."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from inspect import signature
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from igd_ray.catalog.schemas import SCHEMA_VERSION
from igd_ray.cli import main
from igd_ray.config import EvaluateSettings, load_settings
from igd_ray.config.base import LOADER_ARGUMENTS
from igd_ray.models import load_model

MODEL_FILE = """
from torch import nn

def net(channels=1, classes=10):
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes)]
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.ReLU(), *head)

def dictionary():
    return {}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(MODEL_FILE)
    scope: dict[str, Callable[..., torch.nn.Module]] = {}
    exec(MODEL_FILE, scope)
    save_file(scope["net"]().state_dict(), tmp_path / "grey.safetensors")
    save_file(scope["net"](channels=3).state_dict(), tmp_path / "colour.safetensors")
    save_file(scope["net"](classes=7).state_dict(), tmp_path / "seven.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "grey.safetensors").read_bytes()[:-40])
    torch.save(scope["net"]().state_dict(), tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:-60])
    with zipfile.ZipFile(tmp_path / "not_torch.pt", "w") as archive:
        archive.writestr("hello", "world")
    (tmp_path / "settings.yaml").write_text("sigmaa: 0.1\n")
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "code.yaml").write_text("model: !!python/object/apply:os.system ['touch ran']\n")
    return tmp_path


def parquet(path: Path, labels: list[int]) -> None:
    """A Parquet file of random images in Hugging Face's layout."""
    rows = []
    for label in labels:
        file = io.BytesIO()
        Image.fromarray(np.full((8, 8), 10 * abs(label), np.uint8)).save(file, "PNG")
        rows.append({"image": {"bytes": file.getvalue(), "path": None}, "label": label})
    pq.write_table(pa.Table.from_pylist(rows), path)


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str], folder: Path) -> str:
    """Run `igd`, check that it refuses in one line and writes nothing, and return the line."""
    before = sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts)
    code = main(arguments)
    captured = capsys.readouterr()
    assert code == 2, captured.err
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("igd: error: ")
    assert sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts) == before
    return lines[0]


def test_no_argument_of_a_factory_can_collide_with_one_of_loading() -> None:
    assert set(signature(load_model).parameters) == {*LOADER_ARGUMENTS, "factory_args"}


def test_options_are_left_to_rankings_and_searches_that_come_by_their_ids() -> None:
    for given in ({"ranking": "0123"}, {"from_search": "0123"}):
        assert load_settings(EvaluateSettings, file=None, given={"signed": True, **given}).signed


def test_weights_with_code_are_refused_and_the_code_does_not_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Touch:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (folder / "ran",)  # type: ignore[return-value]

    torch.save({"0.weight": Touch()}, folder / "evil.pt")
    (folder / "evil.pkl").write_bytes(pickle.dumps(Touch()))
    for name in ("evil.pt", "evil.pkl"):
        line = refusal(["evaluate", "--model", "net.py:net", "--weights", name], capsys, folder)
        assert "could run code when loaded" in line
    assert not (folder / "ran").exists()


def test_labels_out_of_range_and_a_half_written_parquet_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parquet(folder / "negative.parquet", [0, -1])
    assert "-1" in refusal(["evaluate", "--n", "2", "--data", "parquet:negative.parquet"], capsys, folder)
    parquet(folder / "empty.parquet", [0])
    pq.write_table(pq.read_table(folder / "empty.parquet").slice(0, 0), folder / "empty.parquet")
    assert "empty.parquet" in refusal(["evaluate", "--data", "parquet:empty.parquet"], capsys, folder)
    parquet(folder / "half.parquet", [0, 1, 2])
    content = (folder / "half.parquet").read_bytes()
    (folder / "half.parquet").write_bytes(content[: len(content) // 2])
    assert "half.parquet" in refusal(["evaluate", "--data", "parquet:half.parquet"], capsys, folder)


def test_a_catalog_of_another_schema_version(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "results").mkdir()
    (folder / "results" / "catalog.json").write_text(json.dumps({"schema_version": 99}))
    for verb in (["evaluate"], ["rank"], ["search"], ["status"], ["report"], ["sql", "SELECT 1"], ["demo"]):
        assert f"schema version 99, this igd-ray reads and writes version {SCHEMA_VERSION}" in refusal(
            verb, capsys, folder
        )


def test_an_empty_folder_stays_empty_when_the_input_is_bad(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "results").mkdir()
    assert "no layer" in refusal(["evaluate", "--layer", "nowhere"], capsys, folder)


def test_a_folder_that_is_no_catalog_is_left_alone(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "thesis").mkdir()
    (folder / "thesis" / "chapter.tex").write_text("x")
    assert "neither empty nor a catalog" in refusal(["evaluate", "--catalog", "thesis"], capsys, folder)


def test_a_model_that_returns_a_tuple(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "tuples.py").write_text(
        """
from torch import nn

class Tuples(nn.Sequential):
    def forward(self, images):
        return super().forward(images), images

def net():
    return Tuples(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
"""
    )
    arguments = ["evaluate", "--model", "tuples.py:net", "--weights", "grey.safetensors"]
    line = refusal(arguments, capsys, folder)
    assert line == (
        "igd: error: model 'tuples.py:net' must return float logits [B, C], not tuple of 2; say which output holds "
        "them, by key or position: --output 0"
    )
