"""Trials of a search under Ray Tune. They request no CPU, and read the caches from Ray's object store."""

import os
import tempfile
from typing import Any

from igd_ray.errors import IgdError, first_line
from igd_ray.search import Measurement, PackageSampler, Proposal, Sampler, Setting, Trial
from igd_ray.units.objective import Record, Source, timed

# Trials of Tune that run at once, each in its own process, which later trials use again.
MOST_CONCURRENT = 2

# There is a second process only once a trial of Tune took longer than a process takes to start. Before, the first
# process would have done the trial while the second one started, and Tune would end that one unused.
SECONDS_TO_START = 5.0

# Most settings in one trial of Tune: Tune takes far longer to start a trial than to measure a setting.
MOST_SETTINGS = 16

# A trial whose process died runs again this often. A setting that raises an error does not.
MOST_FAILURES = 1

# The head of the cluster has one of this resource. A trial that requests a CPU would wait for ever while workers hold
# all CPUs, and Tune refuses a trial that requests nothing.
RESOURCES = {"cpu": 0, "node:__internal_head__": 0.001}

# The catalog keeps the results, so Tune writes none; this program handles interrupts.
TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}


def search_with_tune(source: Source, sampler: Sampler, record: Record) -> None:
    """Run the trials that `sampler` proposes under Tune, in the current Ray session; `record` commits each of them.

    Args:
        source: the caches, which go to the object store once.
        sampler: knows the trials that earlier processes finished.
        record: runs in this process before the sampler is told of a trial, so that the sampler knows only committed
            trials.

    Raises:
        IgdError: if a trial fails.
    """
    for name, value in TUNE_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from ray import tune

    if isinstance(sampler, PackageSampler):
        sampler = _suggesting(sampler)
    searcher = _searcher(sampler, record)
    trainable = tune.with_resources(tune.with_parameters(_trainable(), source=source), dict(RESOURCES))
    with tempfile.TemporaryDirectory() as folder:
        results = tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,
                max_concurrent_trials=min(sampler.groups, MOST_CONCURRENT),
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=folder,
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=MOST_FAILURES),
            ),
        ).fit()
    if searcher.failure is not None:
        raise searcher.failure
    if results.errors:
        raise IgdError(f"a trial failed: {first_line(results.errors[0])}; finished trials are kept, run it again")


def _trainable() -> type:
    """Return the class of a trial. It derives from a class of Tune, so it is made where Ray is imported."""
    from ray import tune

    class CachedTrial(tune.Trainable):
        """Measures the settings in its configuration; later trials use its process and caches again."""

        def setup(self, config: dict[str, Any], source: Source | None = None) -> None:
            assert source is not None
            self._objective = source.build()
            self._settings: list[Setting] = config["settings"]

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self._settings = new_config["settings"]
            return True

        def step(self) -> dict[str, Any]:
            return {"answers": [self._answer(setting) for setting in self._settings], "done": True}

        def _answer(self, setting: Setting) -> tuple[Measurement, float] | str:
            try:
                return timed(self._objective, setting)
            except Exception as error:  # an error of one setting does not stop the others
                return f"{type(error).__name__}: {first_line(error)}"

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            """Save nothing: a trial has one step."""

        def load_checkpoint(self, checkpoint: object) -> None:
            """Load nothing: nothing was saved."""

    return CachedTrial


def _searcher(sampler: Sampler, record: Record) -> Any:
    """Return `sampler` as a Searcher of Tune."""
    from ray.tune.search import Searcher

    settings = min(-(-sampler.groups // MOST_CONCURRENT), MOST_SETTINGS)

    class SamplerSearcher(Searcher):
        """Asks the sampler for settings, records their trials, and only then tells the sampler."""

        def __init__(self) -> None:
            super().__init__(metric=None, mode=None)
            self.failure: Exception | None = None
            self._running: dict[str, list[Proposal]] = {}
            self._longest = 0.0

        def suggest(self, trial_id: str) -> Any:
            if self.failure is not None:
                return Searcher.FINISHED
            if self._running and self._longest < SECONDS_TO_START:
                return None
            proposals = [one for one in (sampler.ask() for _ in range(settings)) if one is not None]
            if not proposals:
                # Tune asks again after None once a running trial ends; without one it never would.
                return None if self._running else Searcher.FINISHED
            self._running[trial_id] = proposals
            return {"settings": [one.setting for one in proposals]}

        def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
            proposals = self._running.pop(trial_id, [])
            answers = ["its process died"] * len(proposals) if error or result is None else result["answers"]
            self._longest = max(self._longest, sum(answer[1] for answer in answers if not isinstance(answer, str)))
            for one, answer in zip(proposals, answers, strict=True):
                try:
                    self._take(one, answer)
                except Exception as failure:  # Tune would log a failed commit, and continue
                    self.failure = self.failure or failure

        def _take(self, proposal: Proposal, answer: tuple[Measurement, float] | str) -> None:
            if isinstance(answer, str):
                raise IgdError(
                    f"the trial of k = {proposal.setting.k} failed: {answer}; "
                    "finished trials are kept, run the same command again"
                )
            measurement, seconds = answer
            trial = Trial(proposal.number, proposal.setting, measurement, sampler.judged(measurement), seconds)
            record(trial)
            sampler.tell(trial)

        def save(self, checkpoint_path: str) -> None:
            """Save nothing: finished trials are in the catalog."""

        def restore(self, checkpoint_path: str) -> None:
            """Load nothing: nothing was saved."""

    return SamplerSearcher()


def _suggesting(package: PackageSampler) -> Sampler:
    """Return a sampler that proposes what the package's algorithm suggests, and knows the trials of `package`."""
    from ray import tune
    from ray.tune.search import create_searcher

    space = package.space
    algorithm = create_searcher(package.name, metric="loss", mode="min", seed=package.seed)
    algorithm.set_search_properties(
        "loss", "min", {"k": tune.choice(list(space.ks)), "group": tune.choice(list(range(len(space.groups))))}
    )

    class AlgorithmSampler(PackageSampler):
        """Numbers the suggestions of the algorithm, and tells it their trials."""

        def ask(self) -> Proposal | None:
            number = len(self.told)
            if self.finished:
                return None
            point = algorithm.suggest(str(number))
            return Proposal(number, Setting(point["k"], *space.groups[point["group"]]))

        def tell(self, trial: Trial) -> None:
            super().tell(trial)
            algorithm.on_trial_complete(str(trial.number), {"loss": self.loss(trial)})

    suggesting = AlgorithmSampler(package.name, space, package.tolerance, package.most_trials, package.seed)
    for trial in package.told:
        point = {"k": trial.setting.k, "group": space.groups.index(trial.setting.group)}
        algorithm.add_evaluated_point(point, package.loss(trial))
        suggesting.told.append(trial)
    return suggesting
