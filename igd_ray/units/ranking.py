"""The units of a ranking: shards of images, and of neurons where the suffix is re-run for each of them."""

from dataclasses import dataclass
from functools import cached_property

from igd_ray.identity import unit_key
from igd_ray.models import Layer
from igd_ray.ranking.clip_dissect import pooled_activations
from igd_ray.ranking.leave_one_out import leave_one_out_sums
from igd_ray.ranking.prompts import embed_classes
from igd_ray.units.arrays import TABLE, array_rows
from igd_ray.units.base import Rows, Shard
from igd_ray.units.replica import Context


@dataclass(frozen=True)
class LeaveOneOutUnit:
    """LO-IR sums of one shard of probe images, for a range of neurons."""

    model_id: str
    layer: Layer
    shard: Shard
    num_classes: int
    neurons: tuple[int, int]
    every_class: bool
    signed: bool
    one_pass: bool

    kind = "leave-one-out"
    tables = (TABLE,)
    needs: frozenset[str] = frozenset()

    @cached_property
    def key(self) -> str:
        """The hash of model, layer, images, neurons and options."""
        return unit_key(
            "ranking",
            method="loir",
            model=self.model_id,
            layer=self.layer.identity,
            images=self.shard.digest,
            neurons=list(self.neurons),
            every_class=self.every_class,
            signed=self.signed,
        )

    def compute(self, context: Context) -> dict[str, Rows]:
        """Compute the sums."""
        images, labels = context.images(self.shard.images, self.shard.start, self.shard.stop)
        sums = leave_one_out_sums(
            context.model,
            self.layer,
            images,
            labels,
            self.num_classes,
            neurons=range(*self.neurons),
            every_class=self.every_class,
            signed=self.signed,
        )
        return {TABLE: array_rows(self.key, {"totals": sums.totals, "counts": sums.counts})}


@dataclass(frozen=True)
class PooledActivationUnit:
    """Spatially averaged activations of one shard of probe images."""

    model_id: str
    layer: Layer
    shard: Shard

    kind = "pooled-activations"
    tables = (TABLE,)
    needs: frozenset[str] = frozenset()

    @cached_property
    def key(self) -> str:
        """The hash of model, layer and images."""
        return unit_key(
            "ranking",
            cache="pooled-activations",
            model=self.model_id,
            layer=self.layer.identity,
            images=self.shard.digest,
        )

    def compute(self, context: Context) -> dict[str, Rows]:
        """Run one pass."""
        images, _ = context.images(self.shard.images, self.shard.start, self.shard.stop)
        return {TABLE: array_rows(self.key, {"activations": pooled_activations(context.model, self.layer, images)})}


@dataclass(frozen=True)
class ImageEmbeddingUnit:
    """CLIP's embeddings of one shard of probe images: whatever model or layer is ranked, they are the same."""

    clip_identity: str
    shard: Shard

    kind = "image-embeddings"
    tables = (TABLE,)
    needs: frozenset[str] = frozenset()

    @cached_property
    def key(self) -> str:
        """The hash of CLIP and images."""
        return unit_key("embedding", clip=self.clip_identity, images=self.shard.digest)

    def compute(self, context: Context) -> dict[str, Rows]:
        """Embed the images."""
        images, _ = context.images(self.shard.images, self.shard.start, self.shard.stop)
        return {TABLE: array_rows(self.key, {"embeddings": context.clip.embed_images(images)})}


@dataclass(frozen=True)
class ClassEmbeddingUnit:
    """CLIP's embeddings of the class prompts; the unit covers no images."""

    clip_identity: str
    prompts: tuple[tuple[str, ...], ...]

    kind = "class-embeddings"
    tables = (TABLE,)
    needs: frozenset[str] = frozenset()
    shard = Shard("probe", 0, 0, (), "")

    @cached_property
    def key(self) -> str:
        """The hash of CLIP and prompts."""
        return unit_key("embedding", clip=self.clip_identity, prompts=[list(texts) for texts in self.prompts])

    def compute(self, context: Context) -> dict[str, Rows]:
        """Embed the prompts."""
        return {TABLE: array_rows(self.key, {"embeddings": embed_classes(context.clip, self.prompts)})}
