"""Asks the download doors of the server that HF_ENDPOINT names, in a process of its own; prints what came as JSON."""

import json
import sys
from collections.abc import Callable

from igd_ray.data import load_images
from igd_ray.errors import IgdError
from igd_ray.models import load_model
from igd_ray.models.clip import load_clip


def answer(ask: Callable[[], object]) -> str:
    """What came, or the line that was said."""
    try:
        return str(ask())
    except IgdError as error:
        return f"{type(error).__name__}: {error}"


DOORS: dict[str, Callable[[], object]] = {
    "timm": lambda: sum(p.numel() for p in load_model("timm:test_vit.r160_in1k").parameters()),
    "data": lambda: len(load_images("hf:made/up", n=3)),
    "data of a missing split": lambda: load_images("hf:made/up", split="validation"),
    "data that is not there": lambda: load_images("hf:made/nothing"),
    "clip that is not there": lambda: load_clip("ViT-B-32/laion2b_s34b_b79k").identity["spec"],
}

if __name__ == "__main__":
    print(json.dumps({name: answer(DOORS[name]) for name in sys.argv[1:]}))
