"""`--until decided`: evaluates shard after shard until the gain of each defense is decided, or the images end."""

from collections.abc import Sequence
from dataclasses import replace

from igd_ray.catalog import Catalog
from igd_ray.execution.session import RunSummary, Session
from igd_ray.planning.attack_units import Cell
from igd_ray.planning.evaluation import EvaluationPlan
from igd_ray.protocol import NONE
from igd_ray.statistics import Comparison
from igd_ray.units.base import UnitReport


def evaluate_until_decided(session: Session, plan: EvaluationPlan) -> tuple[EvaluationPlan, RunSummary]:
    """Evaluate the plan's images up to one look after the other, and return what was done of the plan.

    After each look a defense whose gain or loss is decided is evaluated no further. The looks are fixed, and what they
    see is in the catalog: so the end depends neither on workers nor on interruptions. Checks come last, on the images
    that were evaluated.

    Args:
        session: where units run.
        plan: an evaluation with `looks`, whose run is committed.
    """
    verdicts, parts = _Verdicts(session.workspace.catalog), _Parts(session)
    reach: dict[str, int] = {}
    deciding = list(dict.fromkeys(cell.defense for cell in plan.cells if cell.defense != NONE))
    for shards in plan.looks:
        reach |= dict.fromkeys([NONE, *deciding], shards)
        attacking = replace(plan.until(reach), inspections=())
        parts.run(attacking, f"look-{shards}")
        if parts.failed:
            return attacking, parts.summary
        verdicts.read(attacking.cells)
        deciding = [defense for defense in deciding if not verdicts.compared(defense).is_decided]
        if not deciding:
            break
    done = plan.until(reach)
    parts.run(done, "checks")
    return done, parts.summary


class _Parts:
    """Runs what each look adds to the run, and commits before that the run consists of it."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._planned: set[tuple[object, ...]] = set()
        self._run: set[str] = set()
        self.reused = self.computed = 0
        self.failed: list[UnitReport] = []

    def run(self, plan: EvaluationPlan, name: str) -> None:
        """Run what is new in `plan`; `name` tells the part from others of the run."""
        catalog = self._session.workspace.catalog
        rows = {(row["unit_key"], row["defense"], row["attack"]): row for row in plan.rows()}
        new = [row for place, row in rows.items() if place not in self._planned]
        self._planned |= rows.keys()
        catalog.create()
        catalog.commit("run_units", f"{plan.run_id}-{name}", new)
        units = [unit for unit in plan.units if unit.key not in self._run]
        self._run |= {unit.key for unit in units}
        summary = self._session.run(units, "evaluate")
        self.reused += summary.reused
        self.computed += summary.computed
        self.failed += summary.failed

    @property
    def summary(self) -> RunSummary:
        """The numbers of units of all parts so far."""
        return RunSummary(self.reused, self.computed, tuple(self.failed))


class _Verdicts:
    """What the worst case of each defense says of each image, read unit by unit, each once."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._read: set[tuple[str, str]] = set()
        self._robust: dict[str, dict[str, bool]] = {}

    def read(self, cells: Sequence[Cell]) -> None:
        """Take in the cells that are new; an image is robust if every attack says so."""
        for cell in cells:
            if (place := (cell.defense, cell.unit.key)) in self._read:
                continue
            self._read.add(place)
            robust = self._robust.setdefault(cell.defense, {})
            table = self._catalog.read("outcomes", cell.unit.key)
            for image, status in zip(table["image_id"].to_pylist(), table["status"].to_pylist(), strict=True):
                robust[image] = robust.get(image, True) and status == "robust"

    def compared(self, defense: str) -> Comparison:
        """Return the defense against the undefended model, on the images of both."""
        base, defended = self._robust[NONE], self._robust[defense]
        gained = sum(robust and not base[image] for image, robust in defended.items())
        lost = sum(base[image] and not robust for image, robust in defended.items())
        return Comparison(len(defended), gained, lost, anytime=True)
