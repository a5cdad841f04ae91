"""The workspace of a run: one base model, its data and one catalog.

Everything that can be wrong with model, data and layer is found here, before any work starts.
"""

from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from torch import nn

from igd_ray.attacks.base import RANDOMISED_DIFFERENCE
from igd_ray.attacks.own import model_and_weights
from igd_ray.attacks.registry import NamedAttack
from igd_ray.catalog import Catalog
from igd_ray.checks import check_randomised
from igd_ray.config import WorkspaceSettings
from igd_ray.data import LabeledImages, probe_and_search, require_disjoint
from igd_ray.data.class_names import WELL_KNOWN, parse_class_names, read_lines
from igd_ray.data.images import Window
from igd_ray.data.loading import load_window
from igd_ray.defenses.own import OwnDefense
from igd_ray.downloads import noted_downloads
from igd_ray.errors import InputError
from igd_ray.identity import content_hash, derive_seed
from igd_ray.models import PENULTIMATE, Layer, check_model, find_layer, load_model, model_fingerprint
from igd_ray.models.checkpoints import OWN
from igd_ray.models.sources import contained, factory_file
from igd_ray.units.base import Shard, shards_of
from igd_ray.units.replica import ClipSource, ImageArrays, ModelSource, WorkerSetup

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

# What workers bring along beside image sets.
CLIP = "clip"

# What settings and catalog call a model, images or a defense that a program holds itself: this, a colon and its class.
IN_MEMORY = "memory"

S = TypeVar("S", bound=WorkspaceSettings, covariant=True)
T = TypeVar("T", bound=WorkspaceSettings)


@dataclass(frozen=True)
class Given:
    """What a program holds itself, in place of what settings name; by default nothing.

    Attributes:
        model: the base model.
        test, probe: the images that are evaluated, and those that neurons are ranked on.
        defenses, attacks: by their entries in the settings.
    """

    model: ModelSource | None = None
    test: LabeledImages | None = None
    probe: LabeledImages | None = None
    defenses: Mapping[str, OwnDefense] = field(default_factory=dict)
    attacks: Mapping[str, NamedAttack] = field(default_factory=dict)


@dataclass(frozen=True)
class NamedModel:
    """What a search is of, and with a layer a ranking.

    Attributes:
        model, model_id: the base model's label and fingerprint.
        dataset: the data's spec.
        class_names: of its classes.
    """

    model: str
    model_id: str
    dataset: str
    class_names: tuple[str, ...]


@dataclass(frozen=True)
class OtherModel:
    """A model that transfers come from, beside the base model.

    Attributes:
        label: what it is called.
        model_id: its fingerprint.
        is_random: whether two of its passes differ.
    """

    label: str
    model_id: str
    is_random: bool


class Workspace(Generic[S]):
    """A base model, its data and its catalog.

    Args:
        settings: checked settings; those of a verb, where plans for that verb are made.
        given: what a program holds itself.

    Attributes:
        settings, given: as given.
        catalog: where results are.
        model: the base model.
        order: where each of the evaluated images stands among the first ones of its split.
        example: one image, float32 [1, C, H, W] in [0, 1].
        model_id: the hash of the model and of its factory's arguments.
        uses: what the plans made so far have workers bring along: image sets, "test", "probe" and "search", and "clip".
        downloads: a sentence for each downloaded file that the model and the data are from, with what identifies it.
        code: the files of the user's own rankings and defenses, which workers bring along too.

    Raises:
        InputError: if model, data and layer do not exist or do not fit each other.
    """

    def __init__(self, settings: S, given: Given = Given()) -> None:
        self.settings, self.given = settings, given
        self.catalog = Catalog(settings.catalog)
        self.catalog.check_usable()
        self.uses: set[str] = set()
        self._arrays: dict[str, ImageArrays] = {}
        self.code: set[Path] = set()
        self._published: dict[str, LabeledImages] = {}
        self._other_models: dict[str, ModelSource] = {}
        window = Window(TEST_IMAGES, capped=True) if settings.n is None else Window(settings.n)
        names = class_names_of(settings.classes)
        self.downloads: list[str] = []
        with noted_downloads(self.downloads):
            self._test = given.test or load_window(
                settings.data, split=settings.split, window=window, class_names=names
            )
            self.model: nn.Module = (
                given.model.load("cpu")
                if given.model is not None
                else load_model(settings.model, weights=settings.weights, output=settings.output, **settings.model_arg)
            )
        self.order = list(range(len(self._test)))
        if settings.in_random_order:
            self.order.sort(key=lambda position: derive_seed(self._test.ids[position], f"order:{settings.seed}"))
            self._test = self._test.select(self.order)
        self.example = next(iter(self._test.select([0]).batches(1)))[0]
        check_model(self.model, self.example, self.class_names, spec=settings.model)
        if settings.layer != PENULTIMATE:
            _ = self.layer
        self._fingerprint = given.model.fingerprint if given.model is not None else model_fingerprint(self.model)
        self.model_id = _model_id(self._fingerprint, settings.model_arg)

    def with_settings(self, settings: T) -> "Workspace[T]":
        """Return this model, data and catalog with the settings of another verb, which must name the same ones."""
        other = cast("Workspace[T]", copy(self))
        other.settings = settings
        return other

    def at_layer(self, name: str) -> "Workspace[S]":
        """Return this model, data and catalog with another layer of the model to rank and mask.

        Raises:
            InputError: if there is none of that name, or it cannot be masked.
        """
        other = copy(self)
        other.settings = self.settings.model_copy(update={"layer": name})
        other.layer = self.find_layer(name)
        return other

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class."""
        return self._test.class_names

    @cached_property
    def model_is_random(self) -> bool:
        """Whether two passes of the base model differ: then nothing may take one of them for the other."""
        return self._is_random(self.model)

    def _is_random(self, model: nn.Module) -> bool:
        images = next(iter(self._test.batches(LOOKED_AT_IMAGES)))[0]
        difference = check_randomised(model, images, protocol="rand").value
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
        if self.given.model is not None:
            return self.given.model
        settings = self.settings
        spec = settings.model
        if (file := factory_file(spec)) is not None:
            spec = f"{file.resolve()}:{spec.rpartition(':')[2]}"
        weights = settings.weights
        if weights and weights != OWN:
            weights = str(Path(weights).resolve())
        return ModelSource(spec, weights, dict(settings.model_arg), self._fingerprint, settings.output)

    @cached_property
    def _probe_and_search(self) -> tuple[LabeledImages, LabeledImages]:
        settings = self.settings
        if settings.data == IN_MEMORY:
            raise InputError(
                "rankings, and defenses that ask for training images, need some; pass probe=(images, labels)"
            )
        if settings.search_split == settings.split:
            raise InputError(
                f"search images must not be evaluated, but both come from the split {settings.split!r}; "
                "choose another --search-split or --split"
            )
        class_names = class_names_of(settings.classes)
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
        names = class_names_of(self.settings.classes)
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
        self.uses.add(name)
        if name in self._published:
            return self._published[name]
        if name == "test":
            return self._test
        if name == "probe" and self.given.probe is not None:
            require_disjoint(self.given.probe, self._test, "probe and evaluated images")
            return self.given.probe
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
    def loaded_clip(self) -> "Clip":
        """The same, on the CPU."""
        with noted_downloads(self.downloads):
            return self.clip.load("cpu")

    def shards(self, name: str, size: int | None = None) -> tuple[Shard, ...]:
        """Cut an image set into shards of `size` images; by default as many as a unit takes that does not attack."""
        if size is None:
            size = min(MOST_SHARD_IMAGES, max(FEWEST_SHARD_IMAGES, SHARD_VALUES // self.example.numel()))
        return shards_of(name, self.use(name), size)

    @property
    def named(self) -> NamedModel:
        """The model, its data and its classes."""
        return NamedModel(self.source.label, self.model_id, self.settings.data, tuple(self.class_names))

    def bring_points(self, name: str, points: LabeledImages) -> None:
        """Have workers bring along the image set `name`: points aligned with the images evaluated."""
        self._published[name] = points
        self.use(name)

    def bring_model(self, named: str) -> OtherModel:
        """Have workers bring along the model FILE.py:factory#WEIGHTS, or FILE.py:factory that loads its weights itself.

        Raises:
            InputError: naming the file, if it is not a model of these images and classes, or prints.
        """
        spec, file = model_and_weights(named)
        weights = file or OWN
        try:
            with contained():
                model = load_model(spec, weights=weights)
                check_model(model, self.example, self.class_names, spec=spec)
                is_random = self._is_random(model)
        except Exception as error:  # somebody's code may fail in any way
            # Most say themselves which file it is.
            raise InputError(str(error) if spec in str(error) else f"model {spec!r}: {error}") from error
        fingerprint = model_fingerprint(model)
        source = ModelSource(spec, weights, {}, fingerprint)
        model_id = _model_id(fingerprint, {})
        if model_id != self.model_id:
            self._other_models[model_id] = source
        return OtherModel(source.label, model_id, is_random)

    def bring_code(self, file: Path) -> None:
        """Have workers import `file`, code of the user's, before their first unit."""
        self.code.add(file)

    def worker_setup(self) -> WorkerSetup:
        """Return what workers are built from, with the image sets used so far.

        Raises:
            InputError: naming an image that cannot be read.
        """
        for name in sorted(self.uses - set(self._arrays) - {CLIP}):
            self._arrays[name] = ImageArrays.of(self.use(name))
        return WorkerSetup(
            model=self.source,
            catalog=self.catalog.address,
            images={name: self._arrays[name] for name in sorted(self.uses - {CLIP})},
            clip=replace(self.clip, identity=self.loaded_clip.identity) if CLIP in self.uses else None,
            code=tuple(sorted(self.code)),
            other_models=self._other_models,
        )


def class_names_of(classes: str | None) -> tuple[str, ...] | None:
    """Return the names that the setting `classes` stands for: of a well-known set, or the lines of a file.

    Raises:
        InputError: if there is no such file, or it holds no names.
    """
    if classes is None:
        return None
    if classes in WELL_KNOWN:
        return parse_class_names(classes)
    return parse_class_names(read_lines(classes, "classes: expected cifar10, cifar100 or a file of names"))


def _model_id(fingerprint: str, arguments: Mapping[str, object]) -> str:
    """Return the id of a model; arguments of its factory count even where it keeps them out of sight."""
    return content_hash([fingerprint, arguments])


# For what every verb's workspace has.
AnyWorkspace = Workspace[WorkspaceSettings]
