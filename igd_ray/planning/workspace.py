"""A study: one base model on one data source with one catalog, ready to rank, search and evaluate.

Everything that can be wrong with model, data and layer is found here, before any work starts.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import torch
from torch import nn

from igd_ray.attacks.base import RANDOMISED_DIFFERENCE
from igd_ray.catalog import Catalog
from igd_ray.checks import check_randomised
from igd_ray.config import StudySettings
from igd_ray.data import LabeledImages, probe_and_search, require_disjoint
from igd_ray.data.class_names import read_lines
from igd_ray.data.loading import load_window
from igd_ray.data.request import Window
from igd_ray.defenses.sodef import SodefTraining
from igd_ray.errors import InputError
from igd_ray.execution.executor import Executor, LocalExecutor
from igd_ray.execution.run import RunSummary, pending, require_all, run_units
from igd_ray.identity import content_hash
from igd_ray.models import PENULTIMATE, Layer, check_model, find_layer, load_model, model_fingerprint
from igd_ray.models.checkpoints import OWN
from igd_ray.planning.rankings import RankedModel, RankingPlan, finish_ranking, require_fit
from igd_ray.planning.search import SearchOptions, SearchPlan, run_trials
from igd_ray.planning.training import SodefPlan, plan_sodef
from igd_ray.ranking import GivenRanking, Probe, import_rankings, ranking_class
from igd_ray.ranking.code import code_digest
from igd_ray.ranking.leave_one_out import require_every_class
from igd_ray.search import SearchSpace, Trial
from igd_ray.units.base import Shard, Unit, shards_of
from igd_ray.units.ranking import read_ranking
from igd_ray.units.replica import ClipSource, ImageArrays, ModelSource, WorkerSetup
from igd_ray.units.threads import reproducible

if TYPE_CHECKING:
    from igd_ray.models.clip import Clip

# Probe and search images where no numbers are given; a training split too small for both gives a third to the search.
PROBE_IMAGES = 10_000
SEARCH_IMAGES = 2_000
SEARCH_SHARE = 3

# Pixel values of a unit of probe or search images: 512 CIFAR images, and fewer larger ones, but no fewer than these.
SHARD_VALUES = 512 * 3 * 32 * 32
FEWEST_SHARD_IMAGES = 32
MOST_SHARD_IMAGES = 512

# Images evaluated where no number is given.
TEST_IMAGES = 256

# Images that tell whether the base model is random.
LOOKED_AT_IMAGES = 8

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
        self._make_executor = executor or (lambda setup: LocalExecutor(setup, device=local_device(settings.device)))
        self._executor: Executor | None = None
        self._executor_images: dict[str, ImageArrays] = {}
        self._stack = ExitStack()
        self._used: set[str] = set()
        self._arrays: dict[str, ImageArrays] = {}
        self._uses_clip = False
        window = Window(TEST_IMAGES, capped=True) if settings.n is None else Window(settings.n)
        names = self._class_names(settings.classes)
        self._test = load_window(settings.data, split=settings.split, window=window, class_names=names)
        self.model: nn.Module = load_model(
            settings.model, weights=settings.weights, output=settings.output, **settings.model_arg
        )
        self.example = next(iter(self._test.select([0]).batches(1)))[0]
        check_model(self.model, self.example, self.class_names, spec=settings.model)
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
    def model_is_random(self) -> bool:
        """Whether two passes of the base model differ: then nothing may take one of them for the other."""
        images = next(iter(self._test.batches(LOOKED_AT_IMAGES)))[0]
        difference = check_randomised(self.model, images, protocol="rand").value
        return difference is None or not difference <= RANDOMISED_DIFFERENCE

    @cached_property
    def layer(self) -> Layer:
        """Where the neurons are; a model without a penultimate layer can be attacked all the same."""
        return self.find_layer(self.settings.layer)

    def find_layer(self, name: str) -> Layer:
        """Find another layer of the model.

        Raises:
            InputError: if there is none of that name, or it cannot be masked.
        """
        return find_layer(self.model, name, self.example)

    @property
    def source(self) -> ModelSource:
        """How workers build the model."""
        settings = self.settings
        file = settings.model.rpartition(":")[0]
        spec = settings.model
        if file.endswith(".py"):
            spec = f"{Path(file).resolve()}:{settings.model.rpartition(':')[2]}"
        weights = settings.weights
        if weights and weights != OWN:
            weights = str(Path(weights).resolve())
        return ModelSource(spec, weights, dict(settings.model_arg), self._fingerprint, settings.output)

    @cached_property
    def _probe_and_search(self) -> tuple[LabeledImages, LabeledImages]:
        settings = self.settings
        if settings.search_split == settings.split:
            raise InputError(
                f"search images must not be evaluated, but both come from the split {settings.split!r}; "
                "choose another --search-split or --split"
            )
        class_names = self._class_names(settings.classes)
        probe_n = settings.probe_n or PROBE_IMAGES
        search_n = settings.search_n or SEARCH_IMAGES
        if settings.search_split == TRAIN and not (settings.probe_n and settings.search_n):
            training = self._count(TRAIN, probe_n + search_n)
            search_n = settings.search_n or min(SEARCH_IMAGES, training // SEARCH_SHARE)
            probe_n = settings.probe_n or min(PROBE_IMAGES, training - search_n)
        elif settings.search_split != TRAIN:
            probe_n = settings.probe_n or self._count(TRAIN, PROBE_IMAGES)
            search_n = settings.search_n or self._count(settings.search_split, SEARCH_IMAGES)
        probe, search = probe_and_search(
            settings.data,
            probe_n=probe_n,
            search_n=search_n,
            search_split=settings.search_split,
            class_names=class_names,
        )
        require_disjoint(probe, search, "probe and search images")
        require_disjoint(probe, self._test, "probe and evaluated images")
        require_disjoint(search, self._test, "search and evaluated images")
        return probe, search

    def _count(self, split: str, most: int) -> int:
        """Return how many images `split` has, at most `most`: a source hashes every image it is asked for."""
        names = self._class_names(self.settings.classes)
        return len(load_window(self.settings.data, split=split, window=Window(most, capped=True), class_names=names))

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
    def _loaded_clip(self) -> "Clip":
        return self.clip.load("cpu")

    @property
    def _shard_images(self) -> int:
        """How many images a unit of ranking, search or training takes."""
        return min(MOST_SHARD_IMAGES, max(FEWEST_SHARD_IMAGES, SHARD_VALUES // self.example.numel()))

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
        kind = ranking_class(method)
        reads_images, reads_clip = "images" in kind.reads, "clip" in kind.reads
        labels = self.probe.labels if reads_images else torch.empty(0, dtype=torch.int64)
        self._uses_clip |= reads_clip
        # Settings of the package's own methods have flags of their own.
        names = kind.setting_names() if code_digest(kind) is None else ()
        ranking = kind(
            self.layer,
            tuple(self.class_names),
            seed=self.settings.seed if kind.uses_seed else 0,
            **{name: getattr(self.settings, name) for name in names},
        )
        ranking = ranking.prepared(Probe(self.example, labels, lambda: self._loaded_clip))
        return RankingPlan(
            method,
            self._ranked,
            ranking.sharded(self.model, self.example),
            shards_of("probe", self.probe, self._shard_images) if reads_images else (),
            content_hash(self._loaded_clip.identity) if reads_clip else None,
        )

    @property
    def _ranked(self) -> RankedModel:
        return RankedModel(self.source.label, self.model_id, self.settings.data, self.layer, tuple(self.class_names))

    def import_ranking(self, method: str, folder: str) -> RankingPlan:
        """Return the ranking by `method` that the authors' scripts saved in `folder`, to be committed.

        Raises:
            InputError: if the folder holds no complete ranking of this layer and these classes.
        """
        layer = self.layer
        scores = import_rankings(
            folder, num_classes=len(self.class_names), width=layer.width, layer=layer.name, method=method
        )
        return RankingPlan(method, self._ranked, GivenRanking(layer, tuple(self.class_names), given=scores))

    def plan_sodef(self, arguments: Mapping[str, object]) -> SodefPlan:
        """Plan the training of SODEF on the features of the probe images.

        Raises:
            InputError: if the model has no penultimate layer, or the probe set lacks a class.
        """
        require_every_class(torch.bincount(self.probe.labels, minlength=len(self.class_names)), self.class_names)
        return plan_sodef(
            self.model_id,
            self.find_layer(PENULTIMATE),
            shards_of("probe", self.probe, self._shard_images),
            len(self.class_names),
            SodefTraining(**arguments),  # type: ignore[arg-type]
            self.settings.seed,
        )

    def train(self, plan: SodefPlan) -> None:
        """Train SODEF, unless it is trained.

        Raises:
            IncompleteError: if a unit failed.
        """
        require_all(self.run(plan.units, "train sodef"), "SODEF training")

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

    def stored_ranking(self, ranking_id: str) -> RankingPlan:
        """Return the committed ranking `ranking_id`.

        Raises:
            InputError: if there is none, or it is of another model, layer or classes.
        """
        rows = self.catalog.read("rankings", ranking_id)
        first = rows.slice(0, 1).to_pylist()[0]
        require_fit(f"ranking {ranking_id}", first, self.model_id, self.source.label, self.layer)
        names = dict(zip(rows["class_id"].to_pylist(), rows["class_name"].to_pylist(), strict=True))
        if [names[label] for label in sorted(names)] != list(self.class_names):
            raise InputError(f"ranking {ranking_id} is of other classes than the data's; rank anew, without --ranking")
        ranking = GivenRanking(self.layer, tuple(self.class_names), given=read_ranking(self.catalog, ranking_id))
        return RankingPlan(str(first["method"]), self._ranked, ranking, stored_id=ranking_id)

    def plan_search(
        self, ranking: RankingPlan, *, tolerance: float, options: SearchOptions | None = None
    ) -> SearchPlan:
        """Plan the search with the masks of `ranking`.

        Raises:
            InputError: if k lies outside 1…N, search images may be evaluated too, or a class that has its own k lacks
                them.
        """
        settings, options, layer = self.settings, options or SearchOptions(), self.layer
        ks = range(1, layer.width + 1) if options.ks is None else options.ks
        outside = next((k for k in ks if not 1 <= k <= layer.width), None)
        if outside is not None:
            raise InputError(f"k must lie in 1…{layer.width}, the neurons of {layer.name!r}, not {outside}")
        if options.k_mode == "per-class":
            counts = torch.bincount(self.search.labels, minlength=len(self.class_names)).tolist()
            lacking = [name for name, count in zip(self.class_names, counts, strict=True) if not count]
            if lacking:
                raise InputError(
                    f"a k for each class needs search images of every class, but there are none of "
                    f"{', '.join(lacking[:5])}; raise --search-n"
                )
        return SearchPlan(
            ranking=ranking,
            dataset=settings.data,
            split=settings.search_split,
            labels=self.search.labels,
            shards=shards_of("search", self.search, self._shard_images),
            space=SearchSpace(
                ks,
                options.sigmas or (settings.noise,),
                options.taus or (settings.tau,),
                options.draws or (settings.draws,),
            ),
            tolerance=tolerance,
            options=options,
            seed=settings.seed,
        )

    def run_trials(self, plan: SearchPlan) -> list[Trial]:
        """Run the trials of `plan` that are not there yet, on this study's executor, and return all."""
        with reproducible():
            return run_trials(
                self.catalog,
                plan,
                self.source,
                lambda source, sampler, record: self._started().search(source, sampler, record),
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
                catalog=self.catalog.address,
                images=self._executor_images,
                clip=replace(self.clip, identity=self._loaded_clip.identity) if self._uses_clip else None,
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
        return read_lines(classes, "classes: expected cifar10, cifar100 or a file of names")


def local_device(device: str) -> str:
    """Return the device of this process that `device`, "auto", "cpu" or "cuda", asks for.

    Raises:
        InputError: if there is none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("--device cuda: PyTorch sees no GPU here; use --device cpu")
    return ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
