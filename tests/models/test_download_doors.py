"""Every door to Hugging Face's hub, end to end against made-up files on the loopback: what comes, and what is said."""

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

from igd_ray.models.clip import DEMO_CONFIG
from tests.data.encoded import png
from tests.toys.loopback_hub import Hub, loopback_hub

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
