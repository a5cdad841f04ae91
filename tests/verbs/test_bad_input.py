"""What cannot be used is told in one line, with exit code 2, before anything is written."""

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from inspect import signature
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from igd_ray.cli import main
from igd_ray.config import LOADER_ARGUMENTS, EvaluateSettings, load_settings
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
    before = sorted(folder.rglob("*"))
    code = main(arguments)
    captured = capsys.readouterr()
    assert code == 2, captured.err
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("igd: error: ")
    assert sorted(path for path in folder.rglob("*") if "__pycache__" not in path.parts) == before
    return lines[0]


FILE = ["--model", "net.py:net", "--weights", "grey.safetensors"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["evalute"], "unknown verb 'evalute'; known: demo, rank"),
        (["evalute"], "did you mean 'evaluate'"),
        (
            ["evaluate", "--modle", "demo"],
            "unknown argument '--modle'; see `igd evaluate --help`; did you mean '--mode' or '--model'",
        ),
        (["evaluate", "--n", "many"], "argument --n: invalid int value: 'many'"),
        (["evaluate", "--n", "0"], "n: input should be greater than or equal to 1, not 0"),
        (["evaluate", "--n", "541"], "540"),
        (["evaluate", "--model", "dem"], "unknown model 'dem'; known forms: demo, robustbench:NAME"),
        (["evaluate", "--model", "dem"], "did you mean 'demo'"),
        (["evaluate", "--model", "robustbench:Wong2020Fst"], "did you mean 'Wong2020Fast'"),
        (["evaluate", "--model", "timm:resnet1"], "did you mean"),
        (["evaluate", "--model", "timm:resnet18", "--model-arg", "name=x"], "does not take these arguments"),
        (["evaluate", "--model", "missing.py:net", "--weights", "grey.safetensors"], "no file at missing.py"),
        (["evaluate", "--model", "net.py:nett", "--weights", "grey.safetensors"], "did you mean 'net'"),
        (
            ["evaluate", "--model", "net.py:dictionary", "--weights", "grey.safetensors"],
            "return an nn.Module, got dict",
        ),
        (["evaluate", "--model", "net.py:net"], "needs its weights: pass --weights FILE"),
        (["evaluate", *FILE, "--model-arg", "depth=3"], "unexpected keyword argument 'depth'"),
        (["evaluate", *FILE, "--model-arg", "depth"], "--model-arg must be NAME=VALUE"),
        (["evaluate", *FILE, "--model-arg", "weights=1"], "--model-arg weights: a factory cannot have an argument of"),
        (["rank", *FILE, "--model-arg", "spec=1"], "--model-arg spec: a factory cannot have an argument of that name"),
        (["search", "--model-arg", "device=cpu"], "use --model, --weights, --output or --device, or rename it"),
        (["evaluate", "--model", "net.py:net", "--weights", "none.pt"], "weights: no file at none.pt"),
        (["evaluate", "--model", "net.py:net", "--weights", "cut.safetensors"], "not a whole safetensors file"),
        (["evaluate", "--model", "net.py:net", "--weights", "cut.pt"], "is not a whole PyTorch file"),
        (["evaluate", "--model", "net.py:net", "--weights", "not_torch.pt"], "is not a whole PyTorch file"),
        (
            ["evaluate", "--model", "net.py:net", "--weights", "colour.safetensors"],
            "0.weight should be [4, 1, 3, 3], is [4, 3, 3, 3]",
        ),
        (
            ["evaluate", "--model", "net.py:net", "--weights", "colour.safetensors", "--model-arg", "channels=3"],
            "cannot take images [1, 8, 8]",
        ),
        (
            ["evaluate", "--model", "net.py:net", "--weights", "seven.safetensors", "--model-arg", "classes=7"],
            "has 7 classes, the data 10",
        ),
        (["evaluate", "--data", "digit"], "did you mean 'digits'"),
        (["evaluate", "--data", "parquet:none.parquet"], "none.parquet"),
        (["evaluate", "--split", "tset"], "did you mean 'test'"),
        (["evaluate", "--eps", "0"], "eps must lie in (0, 1]"),
        (["evaluate", "--eps", "8"], "eps must lie in (0, 1]"),
        (["evaluate", "--eps", "8/"], "expected a number such as 0.03 or a fraction such as 8/255, not '8/'"),
        (["evaluate", "--norm", "l1"], "norm must be one of linf, l2, not 'l1'"),
        (["evaluate", "--norm", "l2", "--eps", "0.5", "--defenses", "loir-4"], "with --norm l2 give --sigma"),
        (["evaluate", "--defenses", "loir-4", "--sigma", "-1"], "sigma must be at least 0"),
        (["evaluate", "--defenses", "loir-4", "--tau", "0"], "tau must be positive"),
        (["evaluate", "--draws", "0"], "draws must be at least 1"),
        (["evaluate", "--defenses", "loir-0"], "unknown defense 'loir-0'"),
        (["evaluate", "--defenses", "loir-65"], "loir-65: k must lie in 1…64"),
        (["evaluate", "--defenses", "lior-5"], "unknown defense 'lior-5'"),
        (
            ["evaluate", "--signed"],
            "--signed is an option of loir rankings, which no defense of the run uses; add loir-K",
        ),
        (["evaluate", "--defenses", "none,cdir-8", "--every-class"], "--every-class is an option of loir rankings"),
        (["evaluate", "--defenses", "confidence-8", "--clip", "demo"], "--clip is an option of cdir rankings"),
        (["evaluate", "--defenses", "random-8", "--prompts", "names.txt"], "add cdir-K to --defenses, or leave it out"),
        (["evaluate", "--attacks", "autoatack"], "unknown attack 'autoatack'"),
        (["evaluate", "--layer", "layr3"], "no layer 'layr3'; layers that can be masked: penultimate, conv1"),
        (["evaluate", "--layer", "layr3"], "did you mean 'layer3'"),
        (["evaluate", "--executor", "local", "--actors", "2"], "--actors is for --executor ray"),
        (["evaluate", "--executor", "lcal"], "invalid choice: 'lcal'"),
        (["evaluate", "--config", "none.yaml"], "settings: no file at none.yaml"),
        (["evaluate", "--config", "settings.yaml"], "unknown setting 'sigmaa'"),
        (["evaluate", "--config", "list.yaml"], "must map names to values"),
        (["evaluate", "--config", "code.yaml"], "is not plain YAML"),
        (["evaluate", "--classes", "names.txt"], "no file at names.txt"),
        (["evaluate", "--ranking", "0123"], "has no '0123' in rankings"),
        (["rank", "--method", "loire"], "method must be one of loir, cdir, random"),
        (["rank", "--method", "cdir", "--clip", "ViT-B-61/openai"], "did you mean"),
        (["search", "--search-split", "test"], "both come from the split 'test'"),
        (["search", "--ks", "9:3"], "ks must be LOW:HIGH with LOW ≤ HIGH, or numbers with commas, not '9:3'"),
        (["search", "--ks", "few"], "ks must be LOW:HIGH"),
        (["search", "--ks", "60:65"], "k must lie in 1…64, the neurons of 'penultimate', not 65"),
        (["search", "--ks", "0:3"], "k must lie in 1…64, the neurons of 'penultimate', not 0"),
        (["search", "--sigmas", ","], "--sigmas names nothing to try"),
        (["search", "--sigmas", "0.5,-1"], "sigmas must be at least 0, in multiples of eps, not -1"),
        (["search", "--sigmas", "1", "--sigma", "0.1"], "give --sigma or --sigmas, not both"),
        (["search", "--sigmas", "1", "--norm", "l2"], "are multiples of an infinity-norm eps; with --norm l2 give"),
        (["search", "--taus", "0"], "taus must be positive, not 0"),
        (["search", "--taus", "1:0.1:4"], "a logarithmic grid is LOW:HIGH:COUNT with 0 < LOW < HIGH"),
        (["search", "--draw-counts", "0"], "draw counts must be at least 1, not 0"),
        (["search", "--trials", "5"], "--trials is for --sampler random and optuna; bisection knows"),
        (["search", "--refine-n", "5"], "--refine-n is for --refine"),
        (["search", "--k-mode", "per-class", "--sampler", "grid"], "--k-mode per-class is for --sampler bisection"),
        (["search", "--k-mode", "per-class", "--search-n", "3"], "a k for each class needs search images of every"),
        (["search", "--ranking", "0123"], "has no '0123' in rankings"),
        (["search", "--ranking", "0123", "--method", "cdir"], "give --ranking or --method, not both"),
        pytest.param(
            ["search", "--sampler", "optuna"],
            "needs a package of its own: pip install optuna; bisection, grid and random need none",
            marks=pytest.mark.skipif(
                find_spec("optuna") is not None, reason="optuna is installed, so nothing is missing"
            ),
        ),
        (["search", "--tolerance", "2"], "tolerance: input should be less than or equal to 1"),
        (["search", "--probe-n", "1000", "--search-n", "1000"], "probe and 1000 search images share"),
        (["rank", "--probe-n", "5"], "the probe set has no image of 5 of 10 classes"),
        (["rank", "--method", "cdir", "--probe-n", "99"], "top 100 images, but the probe set has 99"),
        (["report"], "no catalog at results"),
        (["status", "--catalog", "nowhere"], "no catalog at nowhere"),
        (["sql", "SELECT 1"], "no catalog at results"),
        (["sql"], "give one statement"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_input(arguments: list[str], expected: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert expected in refusal(arguments, capsys, folder)


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
        assert "schema version 99, this igd-ray reads and writes version 2" in refusal(verb, capsys, folder)


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
