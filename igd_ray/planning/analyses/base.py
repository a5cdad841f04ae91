"""What every analysis is: a name, and a plan of units like that of any other run."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

from igd_ray.attacks.registry import NamedAttack
from igd_ray.config import AnalyzeSettings, EvaluateSettings
from igd_ray.errors import InputError
from igd_ray.identity import unit_key
from igd_ray.planning.attack_units import BaseAttacks, Cell, asked_attacks
from igd_ray.planning.defenses import NeededDefenses
from igd_ray.planning.evaluation import run_unit
from igd_ray.planning.rankings import RankingPlan
from igd_ray.planning.workspace import Workspace
from igd_ray.threat import ThreatModel
from igd_ray.units.attack import AttackUnit
from igd_ray.units.base import Unit

# How the catalog knows a ranking that a run compares with others.
COMPARED = "compared-ranking"


@dataclass(frozen=True)
class AnalysisPlan:
    """What an analysis computes.

    Attributes:
        analysis: its name.
        needed: the defenses, and the rankings and trainings that they need first.
        cells: attacks on defenses, shard by shard, whose verdicts it is about.
        sources: attacks whose points other units read.
        measurements: units of its own.
        compared: rankings, by what they are called.
        notes: for readers.
    """

    analysis: str
    needed: NeededDefenses = field(default_factory=NeededDefenses)
    cells: tuple[Cell, ...] = ()
    sources: tuple[AttackUnit, ...] = ()
    measurements: tuple[Unit, ...] = ()
    compared: Mapping[str, RankingPlan] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def rankings(self) -> list[RankingPlan]:
        """Every ranking that it needs, each once."""
        plans = [*self.needed.rankings.values(), *self.compared.values()]
        return list({plan.ranking_id: plan for plan in plans}.values())

    @property
    def first_units(self) -> list[Unit]:
        """The units of rankings and trainings."""
        ranked = [unit for ranking in self.rankings for unit in ranking.units]
        return [*ranked, *(self.needed.training.units if self.needed.training else ())]

    @property
    def units(self) -> list[Unit]:
        """The units that run when rankings and trainings are there, each once."""
        units: list[Unit] = [*self.sources, *(cell.unit for cell in self.cells), *self.measurements]
        return list({unit.key: unit for unit in units}.values())

    @cached_property
    def run_id(self) -> str:
        """The hash of what it consists of: the same analysis has the same id, whenever it is asked for."""
        return unit_key(
            "run",
            analysis=self.analysis,
            cells=sorted([cell.defense, cell.attack, cell.unit.key] for cell in self.cells),
            measurements=sorted(unit.key for unit in self.measurements),
            compared=sorted([label, ranking.ranking_id] for label, ranking in self.compared.items()),
        )[:12]

    def rows(self) -> list[dict[str, object]]:
        """Return what the run consists of, for the table `run_units`."""
        run_id = self.run_id
        rows = [run_unit(run_id, cell.unit, cell.defense, cell.attack, reported=True) for cell in self.cells]
        rows += [run_unit(run_id, unit, unit.defense.label, unit.attack.label) for unit in self.sources]
        rows += [run_unit(run_id, unit, None, None) for unit in (*self.measurements, *self.first_units)]
        for label, ranking in self.compared.items():
            # A ranking is not a unit, but it is what this run is about.
            rows.append(
                {
                    "run_id": run_id,
                    "unit_key": ranking.ranking_id,
                    "kind": COMPARED,
                    "defense": label,
                    "attack": None,
                    "reported": False,
                    "image_ids": [],
                }
            )
        return rows


class Analysis(ABC):
    """One analysis; registered, `igd analyze` knows it by its name.

    Attributes:
        name: on the command line and in the catalog.
        about: what it shows, for the help.
        query: the shipped query that prints it.
        attacks: those that it runs where none are named; none where it attacks nothing.
        settings: the settings of `AnalyzeSettings` that it reads beside defenses and attacks.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    query: ClassVar[str]
    attacks: ClassVar[tuple[str, ...]] = ()
    settings: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def plan(self, workspace: Workspace[AnalyzeSettings]) -> AnalysisPlan:
        """Plan it.

        Raises:
            InputError: for anything that cannot be used, before work starts.
        """

    def check(self, settings: AnalyzeSettings) -> None:
        """Check that the settings of other analyses are left out.

        Raises:
            InputError: naming the one that is given.
        """
        own = {"vary", "grid", "repetitions"} & settings.model_fields_set - self.settings
        others = sorted(own | ({"attacks"} & settings.model_fields_set if not self.attacks else set()))
        if others:
            raise InputError(f"--{others[0]} is of another analysis than {self.name}; leave it out")

    def asked_attacks(self, settings: EvaluateSettings) -> list[NamedAttack]:
        """Return the attacks that are asked for, or this analysis's own."""
        given = settings.attacks if "attacks" in settings.model_fields_set else self.attacks
        return asked_attacks(given, settings.engine)


# By name.
ANALYSES: dict[str, Analysis] = {}


def register(kind: type[Analysis]) -> type[Analysis]:
    """Make an analysis known."""
    ANALYSES[kind.name] = kind()
    return kind


def base_attacks(
    workspace: Workspace[AnalyzeSettings], attacks: Sequence[NamedAttack], threat: ThreatModel | None = None
) -> BaseAttacks:
    """Return the attacks on the base model, which must be able to run `attacks`, within `threat` or the settings'.

    Raises:
        InputError: for an attack that does not fit the model's classes or the norm, or is aimed at what others left.
    """
    settings = workspace.settings
    base = BaseAttacks(
        workspace.model_id,
        len(workspace.class_names),
        workspace.model_is_random,
        threat or settings.threat,
        settings.seed,
        settings.attack_seed,
        settings.judge_draws,
    )
    for attack in attacks:
        if attack.audits or attack.source_model is not None:
            raise InputError(f"{attack.label} is not for analyses; evaluate it with `igd evaluate`")
        if attack.registration is not None and attack.registration.file is not None:
            workspace.bring_code(attack.registration.file)
        if (fitted := base.fitted(attack.algorithm)) is not None:
            fitted.check(base.num_classes, base.threat.norm)
    return base
