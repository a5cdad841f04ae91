"""Every door to Hugging Face's hub, end to end against made-up files on the loopback: what comes, and what is said."""

import ast
import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import timm
import torch
from torch import nn

from igd_ray.models.clip import DEMO_CONFIG
from tests.data.encoded import png
from tests.toys.loopback_hub import COMMIT, Hub, loopback_hub

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
MODEL = "timm/test_vit.r160_in1k/model.safetensors"
CLIP = "made/clip/open_clip_model.safetensors"


def parquet(rows: int, seed: int) -> bytes:
    random = np.random.default_rng(seed)
    images = [{"bytes": png(random.integers(0, 255, (8, 8), dtype=np.uint8)), "path": None} for _ in range(rows)]
    table = pa.table({"image": images, "label": [row % 2 for row in range(rows)]})
    names = json.dumps({"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}})
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"huggingface": names}), buffer)
    return buffer.getvalue()


def ask(hub: Hub | None, home: Path, *doors: str) -> dict[str, str]:
    """Ask `doors` in a process of its own: the hub's library reads its address when it is imported."""
    # A port at which nothing listens stands for a machine without a network.
    address = "http://127.0.0.1:9" if hub is None else hub.address
    environment = {**os.environ, "HF_ENDPOINT": address, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
    environment |= {
        "PYTHONPATH": str(ROOT),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        "PYTHONWARNINGS": "ignore",
    }
    script = [sys.executable, "-m", "tests.models.download_doors", *doors]
    done = subprocess.run(script, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    answers: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return answers


@pytest.fixture
def weights() -> bytes:
    return safetensors.torch.save(timm.create_model("test_vit").state_dict())


def test_what_the_hub_has_comes_once_and_a_broken_transfer_is_tried_again(tmp_path: Path, weights: bytes) -> None:
    with loopback_hub() as hub:
        hub.files = {MODEL: weights}
        hub.files |= {f"datasets/made/up/data/test-0000{n}-of-00003.parquet": parquet(2, n) for n in range(3)}
        hub.cut = {MODEL}
        broken = ask(hub, tmp_path, "timm")["timm"]
        assert broken.startswith("InputError: timm:test_vit.r160_in1k: its weights could not be downloaded"), broken
        answers = ask(hub, tmp_path, "timm", "data", "data of a missing split", "data that is not there")
        assert int(answers["timm"]) == sum(p.numel() for p in timm.create_model("test_vit").parameters())
        transfers = [each for each in hub.asked if each.startswith("GET timm/")]
        assert len(transfers) == 2, "the library keeps chunks of ten megabytes; a smaller file comes whole again"
        assert answers["data"] == "3"
        shards = [each for each in hub.asked if each.startswith("GET datasets/")]
        assert len(shards) == 2, "three images lie in the first two of three files"
        missing = answers["data of a missing split"]
        assert "InputError: hf:made/up holds the splits test, not 'validation'" in missing
        assert "InputError: hf:made/nothing: the Hugging Face hub gave no data set" in answers["data that is not there"]
        asked = len(hub.asked)
        assert ask(hub, tmp_path, "timm")["timm"] == answers["timm"]
        assert not [each for each in hub.asked[asked:] if each.startswith("GET timm/")], "it is in the cache"


NET = """
from torch import nn
from parts import head

def build(width):
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(width))
"""
PARTS = "from torch import nn\n\ndef head(width):\n    return nn.Linear(width, 3)\n"


def test_a_model_comes_with_its_commit_and_runs_code_only_where_that_is_named(tmp_path: Path, weights: bytes) -> None:
    torch.manual_seed(0)
    vit = timm.create_model("test_vit").eval()
    config = {"architecture": "test_vit", "num_classes": 1000, "pretrained_cfg": {"mean": [0.1] * 3, "std": [0.2] * 3}}
    own = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    evil = {"architecture": "test_vit", "model_args": {"checkpoint_path": "/tmp/evil.pth"}}
    with loopback_hub() as hub:
        hub.files = {
            "made/vit/config.json": json.dumps(config).encode(),
            "made/vit/model.safetensors": safetensors.torch.save(vit.state_dict()),
            "made/own/net.py": NET.encode(),
            "made/own/parts.py": PARTS.encode(),
            "made/own/weights.safetensors": safetensors.torch.save(own.state_dict()),
            "made/evil/config.json": json.dumps(evil).encode(),
            "made/evil/model.safetensors": weights,
        }
        answers = ask(
            hub,
            tmp_path,
            *("model of timm's", "model of a revision", "model of code", "code that is not named"),
            *("code that is not there", "configuration that loads", "model that is not there"),
        )
        assert not [each for each in hub.asked if each.startswith("GET made/own/net.py")][1:], "it came once"
    image = torch.linspace(0, 1, 3 * 160 * 160).reshape(1, 3, 160, 160)
    with torch.no_grad():
        expected = vit((image - 0.1) / 0.2)[0, :3].tolist(), own(image)[0].tolist()
    for door, logits in zip(("model of timm's", "model of code"), expected, strict=True):
        came = ast.literal_eval(answers[door])
        assert came[0] == pytest.approx(logits, abs=1e-3)
        assert f"downloaded: hf:made/{'vit' if door.endswith('s') else 'own'}, commit {COMMIT}" in came[1]
        assert any("safetensors, SHA-256 " in note for note in came[1])
    assert answers["model of a revision"] == answers["model of timm's"]
    assert "if you trust its code, name its factory: hf:made/own:net.py:FACTORY" in answers["code that is not named"]
    assert "there is no other.py; its Python files: net.py, parts.py" in answers["code that is not there"]
    assert "checkpoint_path would load something else" in answers["configuration that loads"]
    assert "hf:made/nothing: the Hugging Face hub gave no model" in answers["model that is not there"]


def test_a_clip_of_the_zoo_comes_once_and_is_noted_with_its_hash(tmp_path: Path) -> None:
    content = DEMO_CONFIG.with_suffix(".safetensors").read_bytes()
    with loopback_hub() as hub:
        hub.files = {CLIP: content}
        for _ in range(2):
            said = ask(hub, tmp_path, "clip")["clip"]
            assert said == f"downloaded: CLIP made-up/tag, SHA-256 {hashlib.sha256(content).hexdigest()}"
        assert (
            len([each for each in hub.asked if each.startswith(f"GET {CLIP.replace('/open', '/resolve/main/open')}")])
            == 1
        )


DATA = "datasets/made/up/data/test-00000-of-00001.parquet"
FILE = {"timm": MODEL, "clip": CLIP, "data": DATA}

# What each door advises where the file does not come.
ADVICE = {"timm": "weights", "clip": "weights", "data": "give them as parquet:DIR"}


@pytest.mark.parametrize("case", ["cut", "damaged", "missing", "a page", "no network"])
def test_each_door_says_in_one_line_what_went_wrong_and_what_to_do(case: str, tmp_path: Path, weights: bytes) -> None:
    files = {MODEL: weights, CLIP: DEMO_CONFIG.with_suffix(".safetensors").read_bytes(), DATA: parquet(3, 0)}
    with loopback_hub() as hub:
        hub.files = {} if case == "missing" else dict(files)
        hub.cut = set(files) if case == "cut" else set()
        hub.damaged = set(files) if case == "damaged" else set()
        hub.pages = set(files) if case == "a page" else set()
        answers = ask(None if case == "no network" else hub, tmp_path, *FILE)
        for door, answer in answers.items():
            assert answer.startswith("InputError: "), (door, answer)
            assert ("delete" if case == "damaged" else ADVICE[door]) in answer, (door, answer)
            assert "\n" not in answer
        # What was refused is not taken for the file afterwards; what broke comes when it is asked for again.
        if case == "damaged":
            assert ask(hub, tmp_path, *FILE) == answers
        if case == "cut":
            again = ask(hub, tmp_path, *FILE)
            assert not [answer for answer in again.values() if answer.startswith("InputError")], again
