"""Workers' contexts around models made by hand, without a study."""

from pathlib import Path

from torch import Tensor, nn

from igd_ray.identity import content_hash
from igd_ray.units.base import Shard
from igd_ray.units.replica import Context, ImageArrays, ModelSource, WorkerSetup


class GivenModel(Context):
    """A context whose replica is a given model."""

    def __init__(self, model: nn.Module, images: Tensor, labels: Tensor, catalog: Path) -> None:
        ids = tuple(f"image-{index}" for index in range(len(images)))
        arrays = ImageArrays(images.numpy(), labels.numpy(), ids, ("0", "1"), "by hand")
        super().__init__(
            WorkerSetup(ModelSource("given", None, {}, "fingerprint"), str(catalog), {"test": arrays}), "cpu"
        )
        self.catalog.create()
        self.given = model

    @property
    def model(self) -> nn.Module:
        return self.given


def shard(context: Context, start: int = 0, stop: int | None = None) -> Shard:
    """Images `start`…`stop` of a context."""
    ids = context.setup.images["test"].ids[start:stop]
    return Shard("test", start, start + len(ids), ids, content_hash(ids))
