"""What leasing costs and how work scales, as `igd bench` measures it on this machine."""

import json
from pathlib import Path

import pytest

from igd_ray.cli import main

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.alone]


def bench(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, float]]:
    assert main(["bench", *words, "--json"]) == 0
    rows: list[dict[str, float]] = json.loads(capsys.readouterr().out)
    return rows


def test_leasing_a_unit_to_two_actors_costs_at_most_five_milliseconds(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_worker_niceness", "0")
    rows = {(row["workers"], row["units"]): row for row in bench(capsys, "dispatch", "--actors", "2")}
    assert rows["2 on Ray", 1000]["ms_per_unit"] <= 5
    few, many = rows["64 simulated", 1000], rows["64 simulated", 10_000]
    assert many["ms_per_unit"] <= 2 * few["ms_per_unit"]
    assert many["memory_MiB"] < 16


def test_two_actors_do_sixteen_tenths_of_the_work_of_one(
    shared: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_worker_niceness", "0")
    model = ["--model", f"{shared}/models/cifar_resnet.py:resnet18", "--model-arg", "width=16"]
    model += ["--weights", f"{shared}/models/cifar10_resnet18_w16.safetensors", "--classes", "cifar10"]
    model += ["--data", f"parquet:{shared}/data/cifar10/{{split}}.parquet"]
    measured: list[dict[str, float]] = []
    for _ in range(3):
        one, two = bench(capsys, "scaling", "--actors", "2", *model)
        assert (one["actors"], two["actors"]) == (1, 2)
        # A machine whose cores are halves of one cannot give two processes twice of what it gives one; and whoever uses
        # it for a moment, while one of the two measurements runs, spoils their ratio.
        if two["speedup"] >= min(1.6, 0.8 * two["machine"]):
            return
        measured.append(two)
    pytest.fail(f"two actors did less than 1.6 times the work of one in each of three measurements: {measured}")
