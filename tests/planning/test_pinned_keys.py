"""Keys hold what a result depends on: a change of code that changes no result changes no key.

Where a change is meant to change keys, `python tests/planning/test_pinned_keys.py` writes them anew, and the commit
says so: whoever has results of before computes them again.
"""

import json
import sys
import tempfile
from pathlib import Path

import pytest

from igd_ray.attacks.registry import known_attacks
from tests.planning.planned_keys import ATTACKS, planned_keys

PINNED = Path(__file__).with_name("pinned_keys.json")


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return planned_keys(tmp_path_factory.mktemp("catalog"))


def test_every_key_is_the_pinned_one(keys: dict[str, str]) -> None:
    pinned = json.loads(PINNED.read_text(encoding="utf-8"))
    assert {name: key for name, key in keys.items() if pinned.get(name) != key} == {}
    assert set(pinned) == set(keys)


def test_units_of_every_kind_are_pinned(keys: dict[str, str]) -> None:
    kinds = {name.rpartition(" / ")[2].rpartition(" ")[0] for name in keys} - {"", "ranking", "defense"}
    assert kinds >= {
        "leave-one-out",
        "pooled-activations",
        "image-embeddings",
        "class-embeddings",
        "activations",
        "noisy-logits",
        "attack",
        "transfer",
        "inspection",
        "gradient-check",
        "noise",
        "review",
        "sodef-epoch",
    }


def test_every_attack_is_pinned() -> None:
    elsewhere = {"audit-bpda", "gama-pgd", "tr-gama-pgd", "aa-fast", "tr-aa-fast"}
    assert {*ATTACKS.split(","), *elsewhere} == set(known_attacks())


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        text = json.dumps(planned_keys(Path(folder)), indent=0, ensure_ascii=False)
    PINNED.write_text(text + "\n", encoding="utf-8")
    print(f"{PINNED}: {text.count(chr(10)) - 1} keys", file=sys.stderr)
