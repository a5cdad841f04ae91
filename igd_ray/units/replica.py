"""What every worker of a run needs before its first unit: which model, which images, where results go."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from igd_ray.catalog import Catalog
from igd_ray.data import LabeledImages
from igd_ray.errors import IgdError, InputError
from igd_ray.models import load_model, model_fingerprint, model_sources
from igd_ray.models.checkpoints import OWN
from igd_ray.models.sources import factory_file, import_sources
from igd_ray.values.file_parts import file_and_part

if TYPE_CHECKING:
    from igd_ray.models.clip import Clip


@dataclass(frozen=True)
class ModelSource:
    """How to build the base model again, and the fingerprint that the replica must have.

    Attributes:
        spec, weights, arguments, output: as `load_model` takes them.
        fingerprint: that of the model that the run was planned with.
    """

    spec: str
    weights: str | None
    arguments: dict[str, Any]
    fingerprint: str
    output: str | None = None

    @property
    def weights_file(self) -> Path | None:
        """The file of the weights, where they have one."""
        return None if self.weights in (None, OWN) else file_and_part(self.weights)[0]

    @property
    def factory_file(self) -> Path | None:
        """The file of the model's factory, where it has one."""
        return factory_file(self.spec)

    def files(self) -> list[tuple[Path, ...]]:
        """Return its local files, those together that must lie in one folder."""
        groups: list[tuple[Path, ...]] = []
        if self.factory_file is not None:
            groups.append(tuple(model_sources(self.factory_file).values()))
        if self.weights_file is not None:
            groups.append((self.weights_file,))
        return groups

    def with_files(self, places: Mapping[Path, Path]) -> "ModelSource":
        """Return the same model, whose `files` are at `places`."""
        moved = self
        if self.factory_file is not None:
            moved = replace(moved, spec=f"{places[self.factory_file]}:{self.spec.rpartition(':')[2]}")
        if self.weights is not None and self.weights_file is not None:
            part = self.weights.removeprefix(str(self.weights_file))
            moved = replace(moved, weights=f"{places[self.weights_file]}{part}")
        return moved

    @property
    def label(self) -> str:
        """What the model is called in the catalog: its spec, without the folders of a file."""
        return self.spec if self.factory_file is None else Path(self.spec).name

    def load(self, device: str) -> nn.Module:
        """Load a replica.

        Raises:
            IgdError: if it is not the model that the run was planned with.
        """
        model = load_model(self.spec, weights=self.weights, output=self.output, device="cpu", **self.arguments)
        found = model_fingerprint(model)
        if found != self.fingerprint:
            raise IgdError(f"the replica of {self.spec} is another model ({found}) than the run's ({self.fingerprint})")
        return model.to(device)


@dataclass(frozen=True)
class ClipSource:
    """How to load the CLIP model, and what a replica must be.

    Attributes:
        spec, weights: as `load_clip` takes them.
        identity: of the model that the driver has planned with; None before.
    """

    spec: str
    weights: str | None
    identity: dict[str, Any] | None = field(default=None, repr=False)

    def load(self, device: str) -> "Clip":
        """Load it on `device`.

        Raises:
            IgdError: if it is not the driver's model.
        """
        # Imported here because open_clip takes seconds to import, and only CD-IR needs it.
        from igd_ray.models.clip import load_clip

        clip = load_clip(self.spec, weights=self.weights, device=device)
        if self.identity is not None and clip.identity != self.identity:
            raise IgdError(f"the replica of the CLIP {self.spec} is another model than the run's")
        return clip


# The most that one set may weigh in the driver, and once more in the object store of every node.
MOST_GIBIBYTES = 4.0

# Decoded values that are read at a time: 1024 CIFAR images.
BATCH_VALUES = 1024 * 3 * 32 * 32


@dataclass(frozen=True)
class ImageArrays:
    """Images that travel to other processes as arrays: decoded once, and without a copy on any node.

    Attributes:
        pixels: float32 [n, C, H, W] in [0, 1]; uint8 where that loses nothing.
        labels: int64 [n].
        ids: n stable strings.
        class_names: one per class.
        dataset: the data's spec.
    """

    pixels: npt.NDArray[np.uint8] | npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    ids: tuple[str, ...]
    class_names: tuple[str, ...]
    dataset: str

    @classmethod
    def of(cls, images: LabeledImages) -> "ImageArrays":
        """Read all of `images`.

        Raises:
            InputError: if they are too many, or naming one that cannot be read.
        """
        shape = images.shape
        _require_room(images, shape, 1)
        pixels: npt.NDArray[Any] = np.empty((len(images), *shape), np.uint8)
        start = 0
        for batch, _ in images.batches(max(1, BATCH_VALUES // math.prod(shape))):
            levels = (batch * 255).round().to(torch.uint8)
            # Eight-bit images stay eight-bit: a quarter of the memory, and exactly the same floats again.
            if pixels.dtype == np.uint8 and not torch.equal(levels.to(torch.float32) / 255, batch):
                _require_room(images, shape, 4)
                pixels = pixels.astype(np.float32) / 255
            pixels[start : start + len(batch)] = levels if pixels.dtype == np.uint8 else batch
            start += len(batch)
        return cls(pixels, images.labels.numpy(), images.ids, images.class_names, images.spec)

    def slice(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return (images float32 [n, C, H, W] in [0, 1], labels int64 [n]) of a shard, as copies."""
        pixels = torch.from_numpy(self.pixels[start:stop].copy())
        images = pixels.to(torch.float32) / 255 if pixels.dtype == torch.uint8 else pixels
        return images, torch.from_numpy(self.labels[start:stop].copy())


def _require_room(images: LabeledImages, shape: tuple[int, ...], bytes_of_a_value: int) -> None:
    weight = bytes_of_a_value * len(images) * math.prod(shape) / 2**30
    if weight > MOST_GIBIBYTES:
        raise InputError(
            f"{images.spec} ({images.split}): {len(images)} images of {list(shape)} take {weight:.1f} GiB, a "
            f"set may take {MOST_GIBIBYTES:g}; take fewer with --n, --probe-n or --search-n"
        )


@dataclass(frozen=True)
class WorkerSetup:
    """Everything a worker is built from.

    Attributes:
        model: the base model.
        catalog: the folder of the catalog, an absolute path.
        images: the image sets by name: "probe", "search", "test".
        clip: the CLIP model, where a ranking needs one.
        code: files of the user's that units need imported: rankings and defenses of their own.
        other_models: models that transfers come from, beside the base model, by their ids.
    """

    model: ModelSource
    catalog: str
    images: dict[str, ImageArrays] = field(repr=False)
    clip: ClipSource | None = None
    code: tuple[Path, ...] = ()
    other_models: Mapping[str, ModelSource] = field(default_factory=dict)

    def source(self, model_id: str) -> ModelSource:
        """Return how to build the model `model_id`: another one, or the base model."""
        return self.other_models.get(model_id, self.model)

    def without_images(self) -> "WorkerSetup":
        """Return a copy that holds no images, for sending them on their own."""
        return replace(self, images={})

    def files(self) -> tuple[tuple[Path, ...], ...]:
        """Return the local files of models and of the user's code, those together that must lie in one folder."""
        clip = self.clip
        groups = [group for model in (self.model, *self.other_models.values()) for group in model.files()]
        if clip is not None and clip.spec.endswith(".json"):
            groups.append((Path(clip.spec),))
            groups.append((Path(clip.weights) if clip.weights else Path(clip.spec).with_suffix(".safetensors"),))
        elif clip is not None and clip.weights is not None:
            groups.append((Path(clip.weights),))
        groups += [tuple(model_sources(file).values()) for file in self.code]
        return tuple(dict.fromkeys(groups))

    def with_files(self, places: Mapping[Path, Path]) -> "WorkerSetup":
        """Return a copy whose `files` are at `places`."""
        clip = self.clip
        if clip is not None and clip.spec.endswith(".json"):
            weights = Path(clip.weights) if clip.weights else Path(clip.spec).with_suffix(".safetensors")
            clip = replace(clip, spec=str(places[Path(clip.spec)]), weights=str(places[weights]))
        elif clip is not None and clip.weights is not None:
            clip = replace(clip, weights=str(places[Path(clip.weights)]))
        return replace(
            self,
            model=self.model.with_files(places),
            clip=clip,
            code=tuple(places[file] for file in self.code),
            other_models={model_id: model.with_files(places) for model_id, model in self.other_models.items()},
        )


class Context:
    """One worker's model replica, images and catalog; built when first asked for, then kept."""

    def __init__(self, setup: WorkerSetup, device: str, catalog: Catalog | None = None) -> None:
        self.setup = setup
        self.device = device
        self.catalog = catalog or Catalog(setup.catalog)
        # Units name the classes in these files by modules that importing them makes.
        for file in setup.code:
            import_sources(file)
        self._model: nn.Module | None = None
        self._other_models: dict[str, nn.Module] = {}
        self._clip: Clip | None = None

    @property
    def model(self) -> nn.Module:
        """The base model's replica on this worker's device."""
        if self._model is None:
            self._model = self.setup.model.load(self.device)
        return self._model

    def model_of(self, model_id: str) -> nn.Module:
        """Return the model `model_id` on this worker's device: one that transfers come from, or the base model."""
        if model_id not in self.setup.other_models:
            return self.model
        if model_id not in self._other_models:
            self._other_models[model_id] = self.setup.source(model_id).load(self.device)
        return self._other_models[model_id]

    @property
    def clip(self) -> "Clip":
        """The CLIP model on this worker's device."""
        if self._clip is None:
            if self.setup.clip is None:
                raise IgdError("this run was planned without a CLIP model")
            self._clip = self.setup.clip.load(self.device)
        return self._clip

    def images(self, name: str, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return images and labels `start`…`stop` of the set `name`, on this worker's device."""
        images, labels = self.setup.images[name].slice(start, stop)
        return images.to(self.device), labels.to(self.device)

    def all_images(self, name: str) -> tuple[Tensor, Tensor]:
        """Return all images and labels of the set `name`, on this worker's device."""
        return self.images(name, 0, len(self.setup.images[name].labels))

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name per class."""
        return next(iter(self.setup.images.values())).class_names
