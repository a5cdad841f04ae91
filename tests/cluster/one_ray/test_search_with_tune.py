"""Under Ray Tune a search has the trials of one process: beside busy actors, and after it was killed."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray import tune
from safetensors.torch import save_file

from igd_ray.catalog import Catalog
from igd_ray.cli import main
from igd_ray.cluster import RayExecutor, tuning
from igd_ray.cluster.tuning import search_with_tune
from igd_ray.config import SearchSettings, load_settings
from igd_ray.errors import IgdError
from igd_ray.execution.session import ExecutorFactory
from igd_ray.planning.search import load_objective, plan_searches
from igd_ray.planning.search.stored import read_search, read_trials
from igd_ray.search import (
    BisectionSampler,
    ListSampler,
    Measurement,
    Noise,
    PackageSampler,
    SearchSpace,
    Setting,
    Trial,
)
from igd_ray.units.objective import ObjectiveSource, ShardCaches
from igd_ray.verbs.search import search
from tests.toys.commands import igd_command
from tests.toys.sessions import session_for

pytestmark = pytest.mark.cluster

SPACE: dict[str, object] = {"sigmas": (0.25, 1.0), "taus": (0.01, 1.0), "ks": "1:16"}


def settings_in(catalog: Path, **changes: object) -> SearchSettings:
    given = {"catalog": str(catalog), "probe_n": 200, "search_n": 100, **changes}
    return load_settings(SearchSettings, file=None, given=given)


def told(trials) -> list[object]:
    """What equal trials agree in."""
    return [(trial.number, trial.setting, trial.measurement, trial.feasible) for trial in trials]


def searched(catalog: Path, executor: ExecutorFactory | None, **changes: object):
    settings = settings_in(catalog, method="random", tolerance=0.4, **changes)
    with session_for(settings, executor) as session:
        (result,) = search(session, plan_searches(session.workspace))
    assert result.chosen is not None
    return result


@pytest.mark.parametrize(
    "changes",
    [
        SPACE,
        {**SPACE, "sampler": "random", "trials": 6},
        {**SPACE, "sigmas": (0.0,), "layer": "layer2"},
    ],
    ids=["bisection", "random", "another-layer"],
)
def test_tune_s_trials_are_those_of_one_process_beside_actors_that_hold_every_cpu(
    session: None, tmp_path: Path, changes: dict[str, object]
) -> None:
    here = searched(tmp_path / "here", None, **changes)
    # Two actors on two CPUs: they ran the caches' units, and stay while the trials run.
    there = searched(tmp_path / "there", lambda setup: RayExecutor(setup, actors=2), **changes)
    assert told(there.trials) == told(here.trials)
    assert there.chosen.setting == here.chosen.setting


def test_every_process_reads_the_caches_where_ray_keeps_them(session: None, tmp_path: Path) -> None:
    settings = settings_in(tmp_path / "results", method="random", tolerance=0.02)
    with session_for(settings) as session:
        workspace = session.workspace
        (plan,) = plan_searches(workspace)
        search(session, [plan])
        source = load_objective(workspace.catalog, plan, workspace.source)

    @ray.remote(num_cpus=0)
    def is_shared(given: ObjectiveSource) -> list[bool]:
        objective = given.build()
        activations = objective.shards[0].activations
        # Not its own memory and not to be written, and the tensor over it is no copy.
        array = given.shards[0].activations
        return [array.flags.owndata, array.flags.writeable, activations.data_ptr() == array.ctypes.data]

    assert ray.get(is_shared.remote(ray.put(source))) == [False, False, True]


@dataclass(frozen=True)
class Noted:
    """An objective that notes in a folder which processes build it, and measures once so many have."""

    folder: Path
    processes: int

    def build(self) -> "Noted":
        (self.folder / str(os.getpid())).touch()
        return self

    def measure(self, setting: Setting) -> Measurement:
        deadline = time.monotonic() + 120
        while len(list(self.folder.iterdir())) < self.processes and time.monotonic() < deadline:
            time.sleep(0.05)
        return Measurement((1,), (1,), (0,), (0,))


@pytest.mark.parametrize(("seconds_to_start", "settings", "processes"), [(5.0, 8, 1), (0.0, 2, 2)])
def test_there_is_a_second_process_only_for_trials_that_take_longer_than_its_start(
    session: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seconds_to_start: float,
    settings: int,
    processes: int,
) -> None:
    # Workers cannot import this file, so its classes travel with their code.
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    monkeypatch.setattr(tuning, "SECONDS_TO_START", seconds_to_start)
    monkeypatch.setattr(tuning, "MOST_SETTINGS", 1)
    sampler = ListSampler([Setting(k, 0.0, 0.01, 1) for k in range(1, settings + 1)], 0.02)
    trials: list[Trial] = []
    search_with_tune(Noted(tmp_path, processes), sampler, trials.append)
    assert sampler.finished
    assert len(list(tmp_path.iterdir())) == processes


def test_a_trial_that_fails_is_an_error_and_the_others_are_kept(session: None, tmp_path: Path) -> None:
    settings = settings_in(tmp_path / "results", method="random", tolerance=0.02)
    with session_for(settings) as session:
        workspace = session.workspace
        (plan,) = plan_searches(workspace)
        search(session, [plan])
        source = load_objective(workspace.catalog, plan, workspace.source)
    good, bad = Setting(3, plan.space.sigmas[0], 0.01, 1), Setting(65, plan.space.sigmas[0], 0.01, 1)
    kept: list[Trial] = []
    with pytest.raises(IgdError, match=r"k = 65 failed: InputError: k must lie in 1…64.*finished trials are kept"):
        search_with_tune(source, ListSampler([good, bad], 0.02), kept.append)
    assert [trial.setting for trial in kept] == [good]


MODEL_FILE = """
from torch import nn

def net():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 10))
"""


def test_512_neurons_of_2000_images_take_seconds(session: None, tmp_path: Path) -> None:
    """Three σ and four τ by bisection: the time of the trials, without Ray's start and the passes."""
    generator = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Any:
        return torch.randn(*shape, generator=generator).numpy()

    (tmp_path / "net.py").write_text(MODEL_FILE)
    scope: dict[str, Any] = {}
    exec(MODEL_FILE, scope)
    save_file(scope["net"]().state_dict(), tmp_path / "net.safetensors")
    files = {"model": f"{tmp_path / 'net.py'}:net", "weights": str(tmp_path / "net.safetensors")}
    with session_for(settings_in(tmp_path / "results", **files)) as session:
        workspace = session.workspace
        model, layer = workspace.source, workspace.layer
    assert layer.width == 512
    sigmas, labels = (0.01, 0.02, 0.03), torch.randint(10, (500,), generator=generator).numpy()
    first = {Noise(sigma, 1): drawn(500, 10) for sigma in sigmas}
    shards = tuple(ShardCaches(abs(drawn(500, 512)), drawn(500, 10), first, labels) for _ in range(4))
    source = ObjectiveSource(model, layer, drawn(10, 512), shards)
    # A tolerance of everything: each bisection goes all the way down.
    sampler = BisectionSampler(SearchSpace(range(1, 513), sigmas, (0.001, 0.01, 0.1, 1.0), (1,)), 1.0)
    trials: list[Trial] = []
    started = time.perf_counter()
    search_with_tune(source, sampler, trials.append)
    assert time.perf_counter() - started < 60  # 30 on two cores of its own
    assert len(trials) == 12 * 10
    assert sum(trial.seconds for trial in trials) < 30


class FakeAlgorithm:
    """Stands for a package's algorithm: suggests the largest group and ever smaller k."""

    def __init__(self) -> None:
        self.told: list[tuple[object, float]] = []
        self.before: list[tuple[dict[str, int], float]] = []

    def set_search_properties(self, metric: str, mode: str, config: dict[str, Any]) -> bool:
        assert (metric, mode) == ("loss", "min")
        self.config = config
        return True

    def suggest(self, trial_id: str) -> dict[str, int]:
        return {"k": self.config["k"].categories[-1 - int(trial_id)], "group": len(self.config["group"].categories) - 1}

    def add_evaluated_point(self, parameters: dict[str, int], value: float) -> None:
        self.before.append((parameters, value))

    def on_trial_complete(self, trial_id: str, result: dict[str, float]) -> None:
        self.told.append((trial_id, result["loss"]))


def test_an_algorithm_of_a_package_is_asked_through_tune_and_told_of_earlier_trials(
    session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_in(tmp_path / "results", method="random", tolerance=0.02, **SPACE)
    with session_for(settings) as session:
        workspace = session.workspace
        (plan,) = plan_searches(workspace)
        search(session, [plan])
        source = load_objective(workspace.catalog, plan, workspace.source)
    algorithm = FakeAlgorithm()
    monkeypatch.setattr(tune.search, "create_searcher", lambda name, **given: algorithm)
    sampler = PackageSampler("optuna", plan.space, 0.02, 3, seed=0)
    trials: list[Trial] = []
    search_with_tune(source, sampler, trials.append)
    assert [trial.setting for trial in trials] == [Setting(k, 0.15, 1.0, 1) for k in (16, 15, 14)]
    assert [number for number, _ in algorithm.told] == ["0", "1", "2"]
    # Feasible k are told apart by their size, and each is better than what loses too much.
    for (_, loss), trial in zip(algorithm.told, trials, strict=True):
        assert loss == trial.setting.k / 16 if trial.feasible else loss > 1
    again = PackageSampler("optuna", plan.space, 0.02, 4, seed=0)
    again.tell(trials[0])
    rest: list[Trial] = []
    search_with_tune(source, again, rest.append)
    assert [trial.number for trial in rest] == [1, 2, 3]
    assert algorithm.before == [({"k": 16, "group": 3}, again.loss(trials[0]))]


def test_killed_in_the_middle_it_runs_only_the_rest(tmp_path: Path) -> None:
    catalog = tmp_path / "results"
    arguments = ["search", "--catalog", str(catalog), "--probe-n", "200", "--search-n", "100", "--method", "random"]
    arguments += ["--sigmas", "0.25,0.5,1", "--taus", "0.001:1:4", "--tolerance", "0.02"]
    command = igd_command(*arguments)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while len(committed := list(catalog.glob("trials/*-*.parquet"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    committed = sorted(catalog.glob("trials/*-*.parquet"))
    written = {path: path.stat().st_mtime_ns for path in committed}
    assert len(written) >= 5
    search_id = committed[0].name.partition("-")[0]
    assert not (catalog / "searches" / f"{search_id}.parquet").exists(), "the search was over before it was killed"
    assert main([*arguments, "--executor", "local"]) == 0
    assert {path: path.stat().st_mtime_ns for path in committed} == written
    arguments[2] = str(tmp_path / "whole")
    assert main([*arguments, "--executor", "local"]) == 0
    whole = Catalog(tmp_path / "whole")
    assert told(read_trials(Catalog(catalog), search_id)) == told(read_trials(whole, search_id))
    assert read_search(Catalog(catalog), search_id) == read_search(whole, search_id)
