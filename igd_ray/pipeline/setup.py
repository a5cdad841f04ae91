"""What every worker of a run needs before its first unit: which model, which images, where results go."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from igd_ray.catalog import Catalog
from igd_ray.data import LabeledImages
from igd_ray.data.images import ArrayReader
from igd_ray.errors import IgdError
from igd_ray.models import load_model, model_fingerprint, model_sources

if TYPE_CHECKING:
    from igd_ray.models.clip import Clip


@dataclass(frozen=True)
class ModelSource:
    """How to build the base model again, and the fingerprint that the replica must have."""

    spec: str
    weights: str | None
    arguments: dict[str, Any]
    fingerprint: str

    @property
    def factory_file(self) -> Path | None:
        """The file of the model's factory, where it has one."""
        file = self.spec.rpartition(":")[0]
        return Path(file) if file.endswith(".py") else None

    @property
    def label(self) -> str:
        """What the model is called in the catalog: its spec, without the folders of a file."""
        return Path(self.spec).name if ".py:" in self.spec else self.spec

    def load(self, device: str) -> nn.Module:
        """Load a replica.

        Raises:
            IgdError: if it is not the model that the run was planned with.
        """
        model = load_model(self.spec, weights=self.weights, device="cpu", **self.arguments)
        found = model_fingerprint(model)
        if found != self.fingerprint:
            raise IgdError(f"the replica of {self.spec} is another model ({found}) than the run's ({self.fingerprint})")
        return model.to(device)


@dataclass(frozen=True)
class ClipSource:
    """How to load the CLIP model."""

    spec: str
    weights: str | None

    def load(self, device: str) -> "Clip":
        """Load it on `device`."""
        # Imported here because open_clip takes seconds to import, and only CD-IR needs it.
        from igd_ray.models.clip import load_clip

        return load_clip(self.spec, weights=self.weights, device=device)


# Sets of more decoded bytes (a byte a value) than this are decoded by each worker, shard by shard.
LARGEST_DECODED_BYTES = 256 * 2**20

# Decoded values that are read at a time: 1024 CIFAR images.
BATCH_VALUES = 1024 * 3 * 32 * 32


@dataclass(frozen=True)
class ImageArrays:
    """Images that travel to other processes: as arrays, without a copy; or, of large sets, undecoded.

    Attributes:
        pixels: float32 [n, C, H, W] in [0, 1]; uint8 where that loses nothing; for a large set the undecoded images:
            files, which every worker must reach as it reaches the catalog, or the encoded bytes of a Parquet file.
        labels: int64 [n].
        ids: n stable strings.
        class_names: one a class.
        dataset: the data's spec.
    """

    pixels: np.ndarray | LabeledImages
    labels: np.ndarray
    ids: tuple[str, ...]
    class_names: tuple[str, ...]
    dataset: str

    @classmethod
    def of(cls, images: LabeledImages) -> "ImageArrays":
        """Read all of `images`; of a large set keep none, as the pass is only to find the unreadable ones.

        Digests do not tell whether an image decodes, so even a large set is decoded once before anything is written.

        Raises:
            InputError: naming an image that cannot be read.
        """
        values = math.prod(images.shape)
        size = max(1, BATCH_VALUES // values)
        # Images of an array are decoded already.
        if len(images) * values > LARGEST_DECODED_BYTES and not isinstance(images.reader, ArrayReader):
            for _ in images.batches(size):
                pass
            return cls(images, images.labels.numpy(), images.ids, images.class_names, images.spec)
        chunks = []
        for batch, _ in images.batches(size):
            levels = (batch * 255).round()
            # Eight-bit images stay eight-bit: a quarter of the memory, and exactly the same floats again.
            exact = torch.equal(levels.to(torch.uint8).to(torch.float32) / 255, batch)
            chunks.append(levels.to(torch.uint8).numpy() if exact else batch.numpy())
        if any(chunk.dtype != np.uint8 for chunk in chunks):
            chunks = [chunk.astype(np.float32) / 255 if chunk.dtype == np.uint8 else chunk for chunk in chunks]
        return cls(np.concatenate(chunks), images.labels.numpy(), images.ids, images.class_names, images.spec)

    def slice(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """Return (images float32 [n, C, H, W] in [0, 1], labels int64 [n]) of a shard, as copies."""
        if isinstance(self.pixels, LabeledImages):
            part = self.pixels.select(slice(start, stop))
            return next(part.batches(len(part)))
        pixels = torch.from_numpy(self.pixels[start:stop].copy())
        images = pixels.to(torch.float32) / 255 if pixels.dtype == torch.uint8 else pixels
        return images, torch.from_numpy(self.labels[start:stop].copy())


@dataclass(frozen=True)
class WorkerSetup:
    """Everything a worker is built from.

    Attributes:
        model: the base model.
        catalog: the folder of the catalog, an absolute path.
        images: the image sets by name: "probe", "search", "test".
        clip: the CLIP model, where a ranking needs one.
    """

    model: ModelSource
    catalog: str
    images: dict[str, ImageArrays] = field(repr=False)
    clip: ClipSource | None = None

    def without_images(self) -> "WorkerSetup":
        """Return a copy that holds no images, for sending them on their own."""
        return replace(self, images={})

    def files(self) -> tuple[tuple[Path, ...], ...]:
        """Return the local files that the models are built from, those together that must lie in one folder."""
        model, clip = self.model, self.clip
        groups: list[tuple[Path, ...]] = []
        if model.factory_file is not None:
            groups.append(tuple(model_sources(model.factory_file).values()))
        if model.weights is not None:
            groups.append((Path(model.weights),))
        if clip is not None and clip.spec.endswith(".json"):
            groups.append((Path(clip.spec),))
            groups.append((Path(clip.weights) if clip.weights else Path(clip.spec).with_suffix(".safetensors"),))
        elif clip is not None and clip.weights is not None:
            groups.append((Path(clip.weights),))
        return tuple(dict.fromkeys(groups))

    def with_files(self, places: Mapping[Path, Path]) -> "WorkerSetup":
        """Return a copy whose `files` are at `places`."""
        model, clip = self.model, self.clip
        if model.factory_file is not None:
            factory = model.spec.rpartition(":")[2]
            model = replace(model, spec=f"{places[model.factory_file]}:{factory}")
        if model.weights is not None:
            model = replace(model, weights=str(places[Path(model.weights)]))
        if clip is not None and clip.spec.endswith(".json"):
            weights = Path(clip.weights) if clip.weights else Path(clip.spec).with_suffix(".safetensors")
            clip = ClipSource(str(places[Path(clip.spec)]), str(places[weights]))
        elif clip is not None and clip.weights is not None:
            clip = replace(clip, weights=str(places[Path(clip.weights)]))
        return replace(self, model=model, clip=clip)


class Context:
    """One worker's model replica, images and catalog; built when first asked for, then kept."""

    def __init__(self, setup: WorkerSetup, device: str, catalog: Catalog | None = None) -> None:
        self.setup = setup
        self.device = device
        self.catalog = catalog or Catalog(setup.catalog)
        self._model: nn.Module | None = None
        self._clip: Clip | None = None

    @property
    def model(self) -> nn.Module:
        """The base model's replica on this worker's device."""
        if self._model is None:
            self._model = self.setup.model.load(self.device)
        return self._model

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
