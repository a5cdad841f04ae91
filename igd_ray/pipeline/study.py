"""A study: one base model on one data source with one catalog, ready to rank, search and evaluate.

Everything that can be wrong with model, data and layer is found here, before any work starts.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import nn

from igd_ray.catalog import Catalog
from igd_ray.config import StudySettings
from igd_ray.data import LabeledImages, load_images, probe_and_search
from igd_ray.errors import InputError
from igd_ray.identity import content_hash
from igd_ray.models import PENULTIMATE, Layer, check_model, find_layer, load_model, model_fingerprint
from igd_ray.pipeline.executor import Executor, LocalExecutor
from igd_ray.pipeline.rank import SHARD_IMAGES, RankingPlan, finish_ranking, plan_ranking
from igd_ray.pipeline.run import RunSummary, pending, require_all, run_units
from igd_ray.pipeline.search import SearchPlan, check_searchable
from igd_ray.pipeline.setup import ClipSource, ImageArrays, ModelSource, WorkerSetup
from igd_ray.pipeline.threads import reproducible
from igd_ray.pipeline.unit import Shard, Unit, shards_of
from igd_ray.ranking.clip_dissect import require_top_images
from igd_ray.ranking.leave_one_out import require_every_class

# Probe and search images where no numbers are given; a training split too small for both gives a third to the search.
PROBE_IMAGES = 10_000
SEARCH_IMAGES = 2_000
SEARCH_SHARE = 3

# Images evaluated where no number is given.
TEST_IMAGES = 256

TRAIN = "train"

ExecutorFactory = Callable[[WorkerSetup], AbstractContextManager[Executor]]


class Study:
    """A base model, its data and its catalog; a context manager that stops what it started.

    Args:
        settings: checked settings.
        executor: makes what units run on; started when there is something to run.

    Raises:
        InputError: if model, data and layer do not exist or do not fit each other.
    """

    def __init__(self, settings: StudySettings, *, executor: ExecutorFactory | None = None) -> None:
        self.settings = settings
        self.catalog = Catalog(settings.catalog)
        self.catalog.check_usable()
        self._make_executor = executor or (lambda setup: LocalExecutor(setup, device=_local_device(settings.device)))
        self._executor: Executor | None = None
        self._executor_images: dict[str, ImageArrays] = {}
        self._stack = ExitStack()
        self._used: set[str] = set()
        self._arrays: dict[str, ImageArrays] = {}
        self._uses_clip = False
        test = load_images(
            settings.data, split=settings.split, n=settings.n, class_names=self._class_names(settings.classes)
        )
        self._test = test if settings.n is not None else test.select(slice(0, TEST_IMAGES))
        self.model: nn.Module = load_model(settings.model, weights=settings.weights, **settings.model_arg)
        self.example = next(iter(test.select([0]).batches(1)))[0]
        check_model(self.model, self.example, test.class_names, spec=settings.model)
        if settings.layer != PENULTIMATE:
            _ = self.layer
        self._fingerprint = model_fingerprint(self.model)
        # Arguments of the factory count even where the model keeps them out of sight.
        self.model_id = content_hash([self._fingerprint, settings.model_arg])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor = None
        self._stack.close()

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a class."""
        return self._test.class_names

    @cached_property
    def layer(self) -> Layer:
        """Where the neurons are; a model without a penultimate layer can be attacked all the same."""
        return find_layer(self.model, self.settings.layer, self.example)

    @property
    def source(self) -> ModelSource:
        """How workers build the model."""
        settings = self.settings
        file = settings.model.rpartition(":")[0]
        spec = settings.model
        if file.endswith(".py"):
            spec = f"{Path(file).resolve()}:{settings.model.rpartition(':')[2]}"
        weights = str(Path(settings.weights).resolve()) if settings.weights else None
        return ModelSource(spec, weights, dict(settings.model_arg), self._fingerprint)

    @cached_property
    def _probe_and_search(self) -> tuple[LabeledImages, LabeledImages]:
        settings = self.settings
        class_names = self._class_names(settings.classes)
        training = len(load_images(settings.data, split=TRAIN, class_names=class_names))
        if settings.search_split == TRAIN:
            search_n = settings.search_n or min(SEARCH_IMAGES, training // SEARCH_SHARE)
            probe_n = settings.probe_n or min(PROBE_IMAGES, training - search_n)
        else:
            split = load_images(settings.data, split=settings.search_split, class_names=class_names)
            search_n = settings.search_n or min(SEARCH_IMAGES, len(split))
            probe_n = settings.probe_n or min(PROBE_IMAGES, training)
        return probe_and_search(
            settings.data,
            probe_n=probe_n,
            search_n=search_n,
            search_split=settings.search_split,
            class_names=class_names,
        )

    @property
    def test(self) -> LabeledImages:
        """The images that are evaluated."""
        return self.use("test")

    @property
    def probe(self) -> LabeledImages:
        """The images that neurons are ranked on."""
        return self.use("probe")

    @property
    def search(self) -> LabeledImages:
        """The images that k is chosen on."""
        return self.use("search")

    def use(self, name: str) -> LabeledImages:
        """Return the set "test", "probe" or "search", and have workers bring it along from now on."""
        self._used.add(name)
        if name == "test":
            return self._test
        probe, search = self._probe_and_search
        return probe if name == "probe" else search

    @cached_property
    def clip(self) -> ClipSource:
        """The CLIP model of CD-IR."""
        settings = self.settings
        spec = settings.clip or ("demo" if settings.data.partition(":")[0] == "digits" else "ViT-B-16/openai")
        weights = str(Path(settings.clip_weights).resolve()) if settings.clip_weights else None
        return ClipSource(str(Path(spec).resolve()) if spec.endswith(".json") else spec, weights)

    @cached_property
    def _clip_identity(self) -> str:
        return content_hash(self.clip.load("cpu").identity)

    def run(self, units: Sequence[Unit], title: str) -> RunSummary:
        """Run the pending ones of `units`; nothing is started where there are none."""
        if not pending(self.catalog, units):
            return RunSummary(reused=len({unit.key for unit in units}), computed=0, failed=())
        self.catalog.create()
        return run_units(self._started(), self.catalog, units, title=title)

    def plan_ranking(self, method: str) -> RankingPlan:
        """Plan the ranking of this study's layer by `method`.

        Raises:
            InputError: for an unknown method, or a probe set that lacks a class or has too few images for it.
        """
        if method == "loir":
            counts = torch.bincount(self.probe.labels, minlength=len(self.class_names))
            require_every_class(counts, self.class_names)
        if method == "cdir":
            require_top_images(len(self.probe))
            self._uses_clip = True
        return plan_ranking(
            method,
            model=self.source.label,
            model_id=self.model_id,
            dataset=self.settings.data,
            layer=self.layer,
            class_names=self.class_names,
            shards=() if method == "random" else shards_of("probe", self.probe, SHARD_IMAGES),
            clip_identity=self._clip_identity if method == "cdir" else None,
            seed=self.settings.seed,
        )

    def rank(self, plan: RankingPlan) -> None:
        """Compute and commit a ranking, unless it is there.

        Raises:
            IncompleteError: if a unit failed.
        """
        if self.catalog.has("rankings", plan.ranking_id):
            return
        self.catalog.create()
        require_all(self.run(plan.units, f"rank {plan.method}"), f"{plan.method} ranking")
        with reproducible():
            finish_ranking(self.catalog, plan)

    def plan_search(self, ranking: RankingPlan, *, tolerance: float) -> SearchPlan:
        """Plan the search for k with the masks of `ranking`."""
        check_searchable(self.layer)
        settings = self.settings
        return SearchPlan(
            ranking=ranking,
            dataset=settings.data,
            split=settings.search_split,
            labels=self.search.labels,
            shards=shards_of("search", self.search, SHARD_IMAGES),
            sigma=settings.noise,
            tau=settings.tau,
            draws=settings.draws if settings.noise else 1,
            tolerance=tolerance,
            seed=settings.seed,
        )

    def test_shards(self, size: int) -> tuple[Shard, ...]:
        """Cut the evaluated images into shards."""
        return shards_of("test", self.test, size)

    def prepare(self, units: Sequence[Unit]) -> None:
        """Read the images that pending `units` need, so that an unreadable one is found before anything is written.

        Raises:
            InputError: naming the image.
        """
        if pending(self.catalog, units):
            self._read_used()

    def _started(self) -> Executor:
        """Return a running executor whose workers have all image sets used so far."""
        if self._executor is None or self._used - set(self._executor_images):
            self._stack.close()
            self._read_used()
            self._executor_images = dict(self._arrays)
            setup = WorkerSetup(
                model=self.source,
                catalog=str(self.catalog.root.resolve()),
                images=self._executor_images,
                clip=self.clip if self._uses_clip else None,
            )
            self._executor = self._stack.enter_context(self._make_executor(setup))
        return self._executor

    def _read_used(self) -> None:
        for name in sorted(self._used - set(self._arrays)):
            self._arrays[name] = ImageArrays.of(self.use(name))

    @staticmethod
    def _class_names(classes: str | None) -> str | list[str] | None:
        if classes is None or classes in ("cifar10", "cifar100"):
            return classes
        path = Path(classes)
        if not path.is_file():
            raise InputError(f"classes: expected cifar10, cifar100 or a file of names, one a line; no file at {path}")
        try:
            return [line.strip() for line in path.read_text().splitlines() if line.strip()]
        except UnicodeDecodeError:
            raise InputError(f"classes: {path} is not UTF-8 text") from None


def _local_device(device: str) -> str:
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch sees no GPU here; use --device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
