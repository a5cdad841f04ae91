"""Asks the download doors of the server that HF_ENDPOINT names, in a process of its own; prints what came as JSON."""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import open_clip
import torch

from igd_ray.data import load_images
from igd_ray.downloads import noted_downloads
from igd_ray.errors import IgdError
from igd_ray.models import load_model
from igd_ray.models.clip import DEMO_CONFIG, load_clip


def answer(ask: Callable[[], object]) -> str:
    """What came, or the line that was said."""
    try:
        return str(ask())
    except IgdError as error:
        return f"{type(error).__name__}: {error}"


def made_up_clip() -> object:
    """The embedded CLIP under a name of open_clip's zoo, with weights on the hub."""
    config = json.loads(DEMO_CONFIG.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "made-up.json").write_text(json.dumps(config.get("model_cfg", config)), encoding="utf-8")
        open_clip.add_model_config(folder)
    open_clip.pretrained._PRETRAINED["made-up"] = {"tag": {"hf_hub": "made/clip/"}}
    notes: list[str] = []
    with noted_downloads(notes):
        load_clip("made-up/tag")
    return notes[0]


def on_the_hub(spec: str, **given: object) -> object:
    """What a model of the hub predicts on one image, and what was noted of it."""
    notes: list[str] = []
    with noted_downloads(notes):
        model = load_model(spec, **given)  # type: ignore[arg-type]
    image = torch.linspace(0, 1, 3 * 160 * 160).reshape(1, 3, 160, 160)
    return [[round(logit, 4) for logit in model(image)[0, :3].tolist()], notes]


DOORS: dict[str, Callable[[], object]] = {
    "timm": lambda: sum(p.numel() for p in load_model("timm:test_vit.r160_in1k").parameters()),
    "data": lambda: len(load_images("hf:made/up", n=3)),
    "data of a missing split": lambda: load_images("hf:made/up", split="validation"),
    "data that is not there": lambda: load_images("hf:made/nothing"),
    "model of timm's": lambda: on_the_hub("hf:made/vit"),
    "model of a revision": lambda: on_the_hub("hf:made/vit@main"),
    "model of code": lambda: on_the_hub("hf:made/own:net.py:build", width=4),
    "code that is not named": lambda: on_the_hub("hf:made/own"),
    "code that is not there": lambda: on_the_hub("hf:made/own:other.py:build"),
    "configuration that loads": lambda: on_the_hub("hf:made/evil"),
    "model that is not there": lambda: on_the_hub("hf:made/nothing"),
    "clip": made_up_clip,
    "clip that is not there": lambda: load_clip("ViT-B-32/laion2b_s34b_b79k").identity["spec"],
}

if __name__ == "__main__":
    print(json.dumps({name: answer(DOORS[name]) for name in sys.argv[1:]}))
