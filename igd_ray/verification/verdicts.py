"""Verification: the stored points of an evaluation are judged again, and every stored verdict must hold."""

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from igd_ray.catalog import Catalog
from igd_ray.config import EvaluateSettings
from igd_ray.errors import IgdError, first_line
from igd_ray.execution.queue import Progress
from igd_ray.planning.attack_units import Cell
from igd_ray.planning.workspace import Workspace
from igd_ray.threat import DISTANCE_TOLERANCE, ThreatModel
from igd_ray.units.base import UnitReport, is_out_of_memory, reproducible
from igd_ray.units.judged import JudgedUnit, Judgement, Points, judged_facts, read_points
from igd_ray.units.replica import Context

# Sums of squares are rounded in another order on another processor.
RELATIVE_DISTANCE_TOLERANCE = 1e-5

# What a verdict says of an image's points, and nobody can tell without them.
AT_POINTS = ("adversarial_prediction", "broken_any", "broken_majority", "broken_all")


@dataclass(frozen=True)
class Failure:
    """A stored verdict that does not hold.

    Attributes:
        image_id: the image.
        reason: what is stored and what is found now, for people.
        margin: the smallest difference of the top two logits over the evaluations that decide; None where the answer
            does not depend on logits. A margin near 0 may flip on another processor.
    """

    image_id: str
    reason: str
    margin: float | None = None

    def __str__(self) -> str:
        margin = "" if self.margin is None else f"; its top two logits are {self.margin:.2g} apart at the closest"
        return f"{self.image_id}: {self.reason}{margin}"


@dataclass(frozen=True)
class UnitCheck:
    """What became of one unit's verdicts; the four numbers of images add up to its images.

    Attributes:
        hold: verdicts that are the same again.
        skipped: images that the unit rightly left out, because an earlier unit had broken them.
        without_points: images whose points the run was told not to keep, so that only their clean prediction is
            checked.
        failures: the others.
    """

    hold: int
    skipped: int
    without_points: int
    failures: tuple[Failure, ...]

    @property
    def images(self) -> int:
        """How many images the unit has."""
        return self.hold + self.skipped + self.without_points + len(self.failures)


# What became of one stored verdict.
Comparison = Literal["hold", "skipped", "without points"] | Failure


def verify_cells(workspace: Workspace[EvaluateSettings], cells: Sequence[Cell], *, device: str) -> list[UnitCheck]:
    """Judge the points of each of `cells` again, with progress on the terminal; a unit of several cells once.

    Nothing is written. Noise has the recorded seeds, and a unit's images are judged as one batch, as it did.

    Raises:
        InputError: if the images cannot be read.
        IgdError: if memory does not suffice for a batch.
    """
    workspace.use("test")
    context = Context(workspace.worker_setup(), device, workspace.catalog)
    units = {cell.unit.key: cell.unit for cell in cells}
    checks: dict[str, UnitCheck] = {}
    with reproducible(), Progress("verify", done=0, total=len(units)) as progress:
        for key, unit in units.items():
            started = time.perf_counter()
            checks[key] = verify_unit(unit, context)
            progress.advance(UnitReport(key, "verification", len(unit.shard.ids), time.perf_counter() - started))
    return [checks[cell.unit.key] for cell in cells]


def verify_unit(unit: JudgedUnit, context: Context) -> UnitCheck:
    """Judge the points of `unit` again, part by part where memory did not suffice for all at once.

    What is stored and cannot be judged, such as a damaged file, makes every verdict that rests on it a failure.

    Raises:
        IgdError: if memory does not suffice for the batch.
    """
    checks = []
    for part in judged_parts(unit, context.catalog):
        try:
            checks.append(_verify_part(part, context))
        except IgdError as error:
            checks.append(UnitCheck(0, 0, 0, tuple(Failure(image_id, str(error)) for image_id in part.shard.ids)))
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise IgdError(
                f"memory does not suffice to judge {len(part.shard.ids)} images as one batch, as unit {part.key[:12]} "
                "did; try --device cpu, or a machine with more memory"
            ) from error
    return UnitCheck(
        sum(check.hold for check in checks),
        sum(check.skipped for check in checks),
        sum(check.without_points for check in checks),
        tuple(failure for check in checks for failure in check.failures),
    )


def judged_parts(unit: JudgedUnit, catalog: Catalog) -> list[JudgedUnit]:
    """Return the units whose keys, and so seeds, the verdicts on the images of `unit` have: itself, or its parts."""
    if len(unit.shard.ids) < 2 or not catalog.parts(unit.key):
        return [unit]
    return [small for part in unit.halved() for small in judged_parts(part, catalog)]


def _verify_part(unit: JudgedUnit, context: Context) -> UnitCheck:
    """Judge the points of one part again and compare image by image."""
    stored = _stored_rows(unit, context.catalog)
    judged_again = _JudgedAgain(unit, context)
    found = [judged_again.compare(row, stored.get(image_id)) for row, image_id in enumerate(unit.shard.ids)]
    return UnitCheck(
        found.count("hold"),
        found.count("skipped"),
        found.count("without points"),
        tuple(each for each in found if isinstance(each, Failure)),
    )


class _JudgedAgain:
    """The verdicts of `unit` on the points that the catalog holds now, and how they compare with those stored."""

    def __init__(self, unit: JudgedUnit, context: Context) -> None:
        margins: list[Tensor] = []
        judgement = Judgement(unit, context, watched=lambda target: _Watched(target, margins))
        self._unit = unit
        self._clean_margins = margins.pop()
        self._margins = self._clean_margins.clone()
        self._standing = set(judgement.standing.tolist())
        self._faults: dict[int, str] = {}
        self._point_counts = torch.zeros_like(judgement.labels)
        if unit.judges_points and self._standing:
            points = points_of(unit, context, judgement.images)
            standing = judgement.standing
            self._point_counts[standing] = torch.stack([exists for _, exists in points.values()]).sum(dim=0)[standing]
            points, faults = allowed_points(points, judgement.images, unit.threat)
            self._faults = {row: fault for row, fault in faults.items() if row in self._standing}
            judgement.judge(points)
            of_standing = [exists[standing] for _, exists in points.values()]
            self._margins[standing] = _deciding_margins(margins, of_standing, unit.judge_draws)
        self._verdicts = judgement.verdicts()
        self._facts = judged_facts(unit)

    def compare(self, row: int, stored: Mapping[str, object] | None) -> Comparison:
        """Compare the verdict on image `row` with the one `stored`."""
        verdict = self._verdicts[row]
        image_id = str(verdict["image_id"])
        if stored is None:
            return Failure(image_id, "no verdict is stored")
        if row in self._faults:
            return Failure(image_id, self._faults[row])
        points = int(self._point_counts[row])
        repeatable = self._is_repeatable(row, stored)
        expected = {**self._facts, **verdict}
        distance = expected.pop("distance")
        if not repeatable:
            for name in AT_POINTS:
                expected.pop(name)
            if verdict["status"] != "misclassified" and stored["status"] in ("robust", "broken"):
                # Whether its points broke the defense nobody can tell any more.
                del expected["status"]
        differing = [name for name, value in expected.items() if stored[name] != value]
        if differing:
            return self._difference(row, differing, stored, expected, points)
        if not repeatable:
            return "without points"
        if not _is_close(stored["distance"], distance):
            return Failure(image_id, f"stored distance {stored['distance']!r}; now {distance!r}")
        return "skipped" if verdict["status"] == "skipped" else "hold"

    def _difference(
        self,
        row: int,
        differing: Sequence[str],
        stored: Mapping[str, object],
        expected: Mapping[str, object],
        points: int,
    ) -> Failure:
        before, now = (", ".join(f"{name} {of[name]!r}" for name in differing) for of in (stored, expected))
        reason = f"stored {before}; now {now}"
        if stored["status"] == "broken" and self._verdicts[row]["status"] == "robust":
            reason = f"{_blame(points)}: {reason}"
        margins = self._clean_margins if "clean_prediction" in differing else self._margins
        of_logits = any(name not in self._facts and name != "label" for name in differing)
        is_flip = of_logits and self._verdicts[row]["status"] != "skipped"
        return Failure(str(expected["image_id"]), reason, float(margins[row]) if is_flip else None)

    def _is_repeatable(self, row: int, stored: Mapping[str, object]) -> bool:
        """Tell whether everything that the stored verdict rests on is still there."""
        unit = self._unit
        judged_at_points = unit.judges_points and row in self._standing
        if not judged_at_points or unit.save_points == "all" or self._point_counts[row]:
            return True
        # Where points of broken images are saved, a broken image without any is broken as it is.
        return unit.save_points == "broken" and stored["status"] == "broken"


def _stored_rows(unit: JudgedUnit, catalog: Catalog) -> dict[str, dict[str, object]]:
    """Return the stored verdicts of `unit` by image.

    Raises:
        IgdError: if there is one on another image, or several on one.
    """
    rows = catalog.read("outcomes", unit.key).to_pylist()
    counts = Counter(row["image_id"] for row in rows)
    strange = [image_id for image_id in counts if image_id not in set(unit.shard.ids)]
    if strange:
        raise IgdError(f"unit {unit.key[:12]} stores a verdict on {strange[0]!r}, which is not among its images")
    repeated = [image_id for image_id, count in counts.items() if count > 1]
    if repeated:
        raise IgdError(f"unit {unit.key[:12]} stores {counts[repeated[0]]} verdicts on {repeated[0]!r}")
    return {row["image_id"]: row for row in rows}


def points_of(unit: JudgedUnit, context: Context, images: Tensor) -> Points:
    """Return the stored points that `unit` judged, in the order in which it did.

    Raises:
        IgdError: if one is not an image.
    """
    key = unit.points_unit.key
    try:
        points = read_points(context, key, unit.shard, images)
    except IgdError:
        raise
    except (ValueError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and is_out_of_memory(error):
            raise
        shape = "×".join(str(size) for size in images.shape[1:])
        raise IgdError(
            f"unit {key[:12]} stores a point that is not an image of {shape}: {first_line(error)}"
        ) from error
    if unit.is_transfer or unit.attack.algorithm is None:
        return points
    # Under this name the unit judged its first points, also where it found none for any image.
    first = unit.attack.algorithm.point_name
    nowhere = images.clone(), torch.zeros(len(images), dtype=torch.bool, device=images.device)
    others = {name: point for name, point in points.items() if name != first and bool(point[1].any())}
    return {first: points.get(first, nowhere), **others}


def allowed_points(points: Points, images: Tensor, threat: ThreatModel) -> tuple[Points, dict[int, str]]:
    """Return `points` with clean images in place of what `threat` does not allow, and by row what is wrong there."""
    faults: dict[int, str] = {}
    allowed = {}
    for name, (candidates, exists) in points.items():
        # In float64, so that the measurement adds no rounding of its own.
        exact = candidates.double()
        infinite = ~torch.isfinite(exact).flatten(1).all(dim=1)
        low, high = exact.flatten(1).amin(dim=1), exact.flatten(1).amax(dim=1)
        outside = (low < 0) | (high > 1)
        distance = threat.norm.distance(exact, images.double())
        far = distance > threat.epsilon + DISTANCE_TOLERANCE
        wrong = exists & (infinite | outside | far)
        for row in wrong.nonzero().flatten().tolist():
            if infinite[row]:
                fault = "holds NaN or infinity"
            elif outside[row]:
                fault = f"ranges over [{float(low[row]):.6g}, {float(high[row]):.6g}], outside [0, 1]"
            else:
                fault = f"is {float(distance[row]):.6g} away, epsilon is {threat.epsilon:.6g}"
            faults.setdefault(row, f"its stored point {name!r} {fault}")
        allowed[name] = torch.where(wrong[:, None, None, None], images, candidates), exists
    return allowed, faults


def _deciding_margins(margins: Sequence[Tensor], existing: Sequence[Tensor], draws: int) -> Tensor:
    """Return each image's smallest margin, float32 [n], over the evaluations that count for its verdict.

    Args:
        margins: [n] each, of every evaluation in order: `draws` of the first points, `draws` of the second, …
        existing: bool [n] for each kind of point, in order: which images have it.
        draws: evaluations of each.
    """
    smallest = torch.full_like(margins[0], math.inf)
    for position, exists in enumerate(existing):
        counts = torch.ones_like(exists) if position == 0 else exists
        least = torch.stack(list(margins[position * draws : (position + 1) * draws])).amin(dim=0)
        smallest = torch.where(counts, torch.minimum(smallest, least), smallest)
    return smallest


def _blame(points: int) -> str:
    if not points:
        return "no stored point"
    return "its stored point does not break it" if points == 1 else f"none of its {points} stored points breaks it"


def _is_close(stored: object, found: object) -> bool:
    if stored is None or found is None:
        return stored is found
    return (
        isinstance(stored, float)
        and isinstance(found, float)
        and math.isclose(stored, found, rel_tol=RELATIVE_DISTANCE_TOLERANCE, abs_tol=DISTANCE_TOLERANCE)
    )


class _Watched(nn.Module):
    """A target that notes in `margins` how far apart the top two logits [B, C] of every evaluation are."""

    def __init__(self, target: nn.Module, margins: list[Tensor]) -> None:
        super().__init__()
        self._target = target
        self._noted = margins

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self._target(images)
        top = logits.topk(2, dim=1).values
        self._noted.append(top[:, 0] - top[:, 1])
        return logits
