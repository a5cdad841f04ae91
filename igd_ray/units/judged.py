"""The verdicts of a unit: a defense is asked for clean images, and afresh at each point of an attack.

An evaluation stores these verdicts, and `igd verify` computes them again from stored points: both by `Judgement`.
"""

import json
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import torch
from torch import Tensor, nn

from igd_ray.attacks.counting import CountedTarget, even_shares
from igd_ray.attacks.registry import NamedAttack
from igd_ray.defenses.registry import ProbeImages
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.identity import content_hash, derive_seed
from igd_ray.threat import ThreatModel, Verdict, judge
from igd_ray.units.base import Passes, Rows, Shard, Unit, host_name
from igd_ray.units.ranking import read_ranking
from igd_ray.units.replica import Context
from igd_ray.units.training import load_trained

OUTCOMES, ADVERSARIALS = "outcomes", "adversarials"

# The name under which an image without any point stands for itself.
CLEAN_POINT = "clean"

# Points by name: float32 [n, C, H, W], and a bool [n] that says where they exist.
Points = Mapping[str, tuple[Tensor, Tensor]]

# Which points a unit commits: every one, those of broken images, or none.
SavePoints = Literal["all", "broken", "none"]

# Of images with more values than 64×64 pixels in color have, only the points that broke their image are kept, unless
# --save-points says otherwise: 5 000 images of 224×224 under nine attacks have 27 GB of points.
MOST_VALUES_KEPT = 3 * 64 * 64


class JudgedUnit(Unit):
    """A unit that judges the points of one attack on one defense over one shard of images.

    Attributes:
        is_transfer: whether its points are those of another unit, on the base model.
        defense, attack, threat: which attack on which defense within which bounds; the attack `clean` attacks nothing.
        seed: the run's seed.
        judge_draws: fresh evaluations of each point of a random defense.
        after: keys of units on the same defense: only images that all of them left robust are judged at points.
    """

    is_transfer: ClassVar[bool]

    if TYPE_CHECKING:
        # At run time an annotation or property here would be the default of the subclasses' dataclass fields.
        @property
        def defense(self) -> DefenseSpec: ...
        @property
        def attack(self) -> NamedAttack: ...
        @property
        def threat(self) -> ThreatModel: ...
        @property
        def seed(self) -> int: ...
        @property
        def judge_draws(self) -> int: ...
        @property
        def after(self) -> tuple[str, ...]: ...
        @property
        def save_points(self) -> SavePoints: ...

    @property
    @abstractmethod
    def seed_key(self) -> str:
        """What its seeds derive from: its key, without the settings that change neither attack nor noise."""

    @property
    @abstractmethod
    def attack_seed_used(self) -> int:
        """The seed of its rows: that of the attack, or of the verdicts where it attacks nothing itself."""

    @property
    @abstractmethod
    def points_unit(self) -> "JudgedUnit":
        """The unit that commits the points that this one judges."""

    @abstractmethod
    def following(self, after: tuple[str, ...]) -> Self:
        """Return this unit on the images that the units `after` left robust."""

    @property
    @abstractmethod
    def ways(self) -> frozenset[str]:
        """How it finds points itself: by gradients, by queries; nothing where it takes another unit's."""

    @abstractmethod
    def halved(self) -> "tuple[JudgedUnit, ...]":
        """Return two units of half the images each."""

    @property
    def judges_points(self) -> bool:
        """Whether it judges anything but the clean images."""
        return self.attack.algorithm is not None

    @property
    def family(self) -> str:
        """The kind, the defense and the attack."""
        return f"{self.kind}/{self.defense.label}/{self.attack.label}"

    @property
    def title(self) -> str:
        """The attack and the defense."""
        return f"{self.attack.label} on {self.defense.label}"


class Tally:
    """What each image of a shard cost: queries, forward and backward passes, int64 [n] each."""

    def __init__(self, target: nn.Module, images: Tensor) -> None:
        self.counted = CountedTarget(target)
        self._shared = (0, 0, 0)
        self.queries, self.forwards, self.backwards = (
            torch.zeros(len(images), dtype=torch.int64, device=images.device) for _ in range(3)
        )

    def add(self, rows: Tensor, counts: Sequence[Tensor]) -> None:
        """Add what an attack says of the images in `rows`."""
        for total, count in zip((self.queries, self.forwards, self.backwards), counts, strict=True):
            total[rows] += count

    def share(self, rows: Tensor) -> None:
        """Share evenly among the images in `rows` what `counted` has counted since the last time."""
        self.add(rows, even_shares(self.counted, self._shared, len(rows), self.queries.device))
        self._shared = self.counted.queries, self.counted.forwards, self.counted.backwards


class Judgement:
    """The verdicts of one unit on its n images.

    Built, it holds the verdicts on the clean images. `judge` replaces those on the images in `standing` by the
    verdicts on their points. `verdicts` returns them.

    Args:
        unit: what is judged.
        context: the replica, the images and the catalog.
        watched: wraps the target of every evaluation; by default nothing does.

    Attributes:
        images, labels: float32 [n, C, H, W] in [0, 1]; int64 [n].
        defense: the defended replica; its noise comes from `generator`.
        tally: what each image cost.
        clean: the predictions on clean images, int64 [n].
        standing: the positions of the images that every unit of `unit.after` left robust, int64.
        broken: how many evaluations some one point broke, the most of any, int64 [n].
        prediction: a wrong class where there was one, else the first evaluation's class, int64 [n].
        chosen: a point that broke the defense, else the first, [n, C, H, W].
    """

    def __init__(
        self, unit: JudgedUnit, context: Context, watched: Callable[[nn.Module], nn.Module] = lambda target: target
    ) -> None:
        self.unit = unit
        self.images, self.labels = context.images(unit.shard.images, unit.shard.start, unit.shard.stop)
        self.generator = torch.Generator()
        self.defense = build_defense(unit.defense, context, self.generator)
        self.tally = Tally(self.defense, self.images)
        self._target = watched(self.tally.counted)
        self.clean = clean_predictions(unit.defense, unit.shard, unit.seed, self._target, self.images, self.generator)
        self.tally.share(torch.arange(len(self.images), device=self.images.device))
        self.standing = standing_rows(context, unit.after, unit.shard, self.images.device)
        self.broken = (self.clean != self.labels).long() * unit.judge_draws
        self.prediction, self.chosen = self.clean.clone(), self.images.clone()

    def judge(self, points: Points) -> None:
        """Judge the points of the images in `standing`; an image without any is judged on its clean version.

        Args:
            points: by name, of all n images.
        """
        rows = self.standing
        images, labels, draws = self.images[rows], self.labels[rows], self.unit.judge_draws
        broken, prediction, chosen = torch.zeros_like(labels), labels.clone(), images.clone()
        undecided = torch.ones_like(labels, dtype=torch.bool)
        for position, (name, (all_candidates, all_exist)) in enumerate(points.items()):
            candidates, exists = all_candidates[rows], all_exist[rows]
            verdict: Verdict = judge(
                self._target,
                candidates,
                self.generator,
                seed=derive_seed(self.unit.seed_key, f"judge:{name}"),
                draws=draws,
            )
            # The first point stands for the image itself where the attack found none.
            counts = torch.ones_like(exists) if position == 0 else exists
            wrong = verdict.broken(labels) & counts
            # A majority of evaluations must be one point's: several points are wrong at some evaluation more easily.
            broken = torch.maximum(broken, wrong.sum(dim=0))
            first_wrong = verdict.predictions.gather(0, wrong.int().argmax(dim=0, keepdim=True))[0]
            take = undecided & (wrong.any(dim=0) if position else counts)
            prediction = torch.where(take, first_wrong, prediction)
            chosen[take] = candidates[take]
            undecided &= ~wrong.any(dim=0)
        self.broken[rows], self.prediction[rows], self.chosen[rows] = broken, prediction, chosen
        self.tally.share(rows)

    def verdicts(self) -> list[dict[str, object]]:
        """Return the verdict on each image, in order: the columns of `outcomes` that a verdict consists of.

        A misclassified image needs no attack. An image outside `standing` is skipped, and has no verdict at points.
        """
        draws = self.unit.judge_draws
        distance = self.unit.threat.norm.distance(self.chosen, self.images).tolist()
        standing = set(self.standing.tolist())
        rows = []
        for index, image_id in enumerate(self.unit.shard.ids):
            broken = int(self.broken[index])
            misclassified = bool(self.clean[index] != self.labels[index])
            skipped = index not in standing and not misclassified
            status = "misclassified" if misclassified else "skipped" if skipped else "broken" if broken else "robust"
            at_points: dict[str, object] = {
                "adversarial_prediction": int(self.prediction[index]),
                "distance": distance[index],
                "broken_any": broken > 0,
                "broken_majority": 2 * broken > draws,
                "broken_all": broken == draws,
            }
            rows.append(
                {
                    "image_id": image_id,
                    "label": int(self.labels[index]),
                    "clean_prediction": int(self.clean[index]),
                    "status": status,
                    **(dict.fromkeys(at_points) if skipped else at_points),
                }
            )
        return rows


def judged_facts(unit: JudgedUnit) -> dict[str, object]:
    """Return the columns of `outcomes` that say what was judged: the same in every row of `unit`."""
    return {
        "unit_key": unit.key,
        "model_id": unit.defense.model_id,
        "defense_id": unit.defense.defense_id,
        "norm": unit.threat.norm.value,
        "epsilon": unit.threat.epsilon,
        "judge_draws": unit.judge_draws,
    }


def base_passes(defense: DefenseSpec, images: int, queries: int, gradients: int) -> Passes:
    """Return the forward and backward passes of one image through the base model.

    Args:
        defense: what is asked.
        images: how many.
        queries, gradients: of the defense's logits, for each image.
    """
    cost = defense.passes
    backwards = queries * cost.query_backwards + gradients * cost.gradient_backwards
    return Passes(images * queries * cost.query_forwards, images * backwards)


def build_defense(defense: DefenseSpec, context: Context, generator: torch.Generator) -> nn.Module:
    """Return the defended replica of `context`, taking its noise from `generator`."""
    scores = read_ranking(context.catalog, defense.ranking_id).scores if defense.ranking_id else None
    trained = load_trained(context.catalog, defense.training_id) if defense.training_id else None
    asks = defense.registered.asks
    probe = ProbeImages(*context.all_images("probe")) if "probe" in asks else None
    class_names = context.class_names if "class_names" in asks else ()
    model = context.model_of(defense.model_id)
    return defense.build(model, generator, scores=scores, trained=trained, probe=probe, class_names=class_names)


def clean_predictions(
    defense: DefenseSpec, shard: Shard, seed: int, target: nn.Module, images: Tensor, generator: torch.Generator
) -> Tensor:
    """Return the predictions of `target`, int64 [n], on clean images; the same for every attack on the defense."""
    key = content_hash([defense.defense_id, shard.digest, seed])
    return judge(target, images, generator, seed=derive_seed(key, "clean")).predictions[0]


def standing_rows(context: Context, after: Sequence[str], shard: Shard, device: torch.device) -> Tensor:
    """Return the positions, int64, of the images of `shard` that all of the units `after` left robust."""
    standing = set(shard.ids)
    for key in after:
        table = context.catalog.read(OUTCOMES, key)
        statuses = zip(table["image_id"].to_pylist(), table["status"].to_pylist(), strict=True)
        standing &= {image_id for image_id, status in statuses if status == "robust"}
    return torch.tensor([row for row, image_id in enumerate(shard.ids) if image_id in standing], device=device).long()


def outcome_rows(
    judgement: Judgement, context: Context, *, seconds: float, stages: Sequence[str | None] | None = None
) -> Rows:
    """Return one row per image for the table `outcomes`.

    Args:
        judgement: the verdicts, and what they cost.
        context: where they were computed.
        seconds: for the whole shard.
        stages: for each image the stage of the attack that broke it; by default none is known.
    """
    unit, tally = judgement.unit, judgement.tally
    defense = unit.defense
    shared = {
        **judged_facts(unit),
        "model": context.setup.source(defense.model_id).label,
        "dataset": context.setup.images[unit.shard.images].dataset,
        "defense": defense.label,
        "k": defense.k,
        "sigma": defense.sigma,
        "tau": defense.tau,
        "draws": defense.draws,
        "layer": defense.layer.name if defense.layer else None,
        "defense_arguments": json.dumps(dict(defense.arguments), sort_keys=True),
        "ranking_id": defense.ranking_id,
        "attack": unit.attack.label,
        "seed": unit.attack_seed_used,
        "host": host_name(),
        "attempt": 1,
        "seconds": seconds / len(unit.shard.ids),
    }
    return [
        {
            **shared,
            **verdict,
            "stage": stages[index] if stages is not None and verdict["status"] == "broken" else None,
            "queries": int(tally.queries[index]),
            "forwards": int(tally.forwards[index]),
            "backwards": int(tally.backwards[index]),
        }
        for index, verdict in enumerate(judgement.verdicts())
    ]


def points_to_save(chosen: SavePoints | None, image: Tensor) -> SavePoints:
    """Return which points of attacks on defenses are kept: `chosen`, or what suits images of the size of `image`.

    >>> points_to_save(None, torch.zeros(3, 32, 32)), points_to_save(None, torch.zeros(3, 224, 224))
    ('all', 'broken')
    """
    if chosen is not None:
        return chosen
    return "all" if image.numel() <= MOST_VALUES_KEPT else "broken"


def point_rows(key: str, shard: Shard, points: Points) -> Rows:
    """Return the rows that keep every existing point for the table `adversarials`.

    The points of an image come one after another: where they are equal, the file holds them about once.
    """
    pixels = {name: candidates.flatten(1).cpu().numpy() for name, (candidates, _) in points.items()}
    return [
        {
            "unit_key": key,
            "image_id": image_id,
            "point": name,
            "shape": list(candidates.shape[1:]),
            "pixels": pixels[name][index],
        }
        for index, image_id in enumerate(shard.ids)
        for name, (candidates, exists) in points.items()
        if exists[index]
    ]


def read_points(context: Context, key: str, shard: Shard, images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the points that the unit `key` kept of the shard's images.

    Images without any point stand for themselves under the first name.
    """
    table = context.catalog.read(ADVERSARIALS, key)
    position = {image_id: index for index, image_id in enumerate(shard.ids)}
    points: dict[str, tuple[Tensor, Tensor]] = {}
    names = table["point"].to_pylist()
    for row, (image_id, name) in enumerate(zip(table["image_id"].to_pylist(), names, strict=True)):
        if image_id not in position:
            continue  # the unit's shard is larger: memory did not suffice for all of it here
        if name not in points:
            points[name] = images.clone(), torch.zeros(len(images), dtype=torch.bool, device=images.device)
        candidates, exists = points[name]
        values = torch.tensor(table["pixels"][row].values.to_numpy(), dtype=torch.float32)
        candidates[position[image_id]] = values.reshape(images.shape[1:]).to(images.device)
        exists[position[image_id]] = True
    if not points:
        points[CLEAN_POINT] = images, torch.zeros(len(images), dtype=torch.bool, device=images.device)
    return points
