"""Which stored points still break a defense once they are images of 8 bits: both are judged with the recorded noise."""

from collections.abc import Sequence
from typing import NamedTuple

from igd_ray.checks import GREY_LEVELS
from igd_ray.config import EvaluateSettings
from igd_ray.errors import IgdError
from igd_ray.execution.queue import Progress
from igd_ray.identity import derive_seed
from igd_ray.planning.attack_units import Cell
from igd_ray.planning.workspace import Workspace
from igd_ray.threat import judge
from igd_ray.units.base import UnitReport, is_out_of_memory, reproducible
from igd_ray.units.judged import JudgedUnit, Judgement
from igd_ray.units.replica import Context
from igd_ray.verification.verdicts import judged_parts, points_of


class PointName(NamedTuple):
    """One stored point of a run: of which attack on which defense, which of its kinds, and of which image."""

    defense: str
    attack: str
    point: str
    image_id: str


class Breaks(NamedTuple):
    """Whether a point breaks the defense at any of the run's evaluations: as it is stored, and rounded to 8 bits."""

    stored: bool
    rounded: bool


def judge_rounded(
    workspace: Workspace[EvaluateSettings], cells: Sequence[Cell], *, device: str
) -> dict[PointName, Breaks]:
    """Judge the stored points of `cells` as they are and rounded, with equal noise; nothing is written.

    Only images count that the unit attacked: no verdict on a point is there for the others.

    Raises:
        InputError: if the images cannot be read.
        IgdError: if memory does not suffice for a batch, or a point cannot be read or judged.
    """
    workspace.use("test")
    context = Context(workspace.worker_setup(), device, workspace.catalog)
    judging = [cell for cell in cells if cell.unit.judges_points]
    found: dict[PointName, Breaks] = {}
    with reproducible(), Progress("rounding", done=0, total=len(judging)) as progress:
        for cell in judging:
            for part in judged_parts(cell.unit, workspace.catalog):
                try:
                    found.update(_judge_part(part, cell, context))
                except (MemoryError, RuntimeError) as error:
                    if not is_out_of_memory(error):
                        raise
                    raise IgdError(
                        f"memory does not suffice to judge {len(part.shard.ids)} images as one batch; try --device cpu"
                    ) from error
            progress.advance(UnitReport(cell.unit.key, "rounding", len(cell.unit.shard.ids), 0.0))
    return found


def _judge_part(unit: JudgedUnit, cell: Cell, context: Context) -> dict[PointName, Breaks]:
    judgement = Judgement(unit, context)
    rows, found = judgement.standing, dict[PointName, Breaks]()
    if not len(rows):
        return found
    labels = judgement.labels[rows]
    for name, (candidates, exists) in points_of(unit, context, judgement.images).items():
        points = candidates[rows]
        broken = [
            judge(
                judgement.defense,
                asked,
                judgement.generator,
                seed=derive_seed(unit.seed_key, f"judge:{name}"),
                draws=unit.judge_draws,
            )
            .broken(labels)
            .any(dim=0)
            .tolist()
            for asked in (points, (points * GREY_LEVELS).round() / GREY_LEVELS)
        ]
        for place, row in enumerate(rows.tolist()):
            if exists[row]:
                point = PointName(cell.defense, cell.attack, name, unit.shard.ids[row])
                found[point] = Breaks(broken[0][place], broken[1][place])
    return found
