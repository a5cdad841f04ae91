"""How accuracies depend on a setting: k, layer, σ, draws, τ, share of the probe images, steps of the attack, eps."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product

from igd_ray.attacks.registry import NamedAttack, parse_attack
from igd_ray.config import AnalyzeSettings
from igd_ray.defenses.specs import DefenseSpec, parse_defense
from igd_ray.errors import InputError
from igd_ray.planning.analyses.base import Analysis, AnalysisPlan, base_attacks, register
from igd_ray.planning.attack_units import Cell
from igd_ray.planning.defenses import NeededDefenses, needed_defenses
from igd_ray.planning.evaluation import plan_attacks
from igd_ray.planning.rankings import RankingPlan, plan_ranking
from igd_ray.planning.workspace import Workspace
from igd_ray.threat import ThreatModel
from igd_ray.units.attack import AttackUnit
from igd_ray.units.base import Shard
from igd_ray.units.judged import points_to_save

Place = Mapping[str, tuple[str, float | int | str]]

# Varied by changing the attack, so that every defense varies; the others change the defense.
OF_ATTACKS = ("steps", "eps")


@register
class Sensitivity(Analysis):
    """Clean and robust accuracy along one setting, or over two."""

    name = "sensitivity"
    about = "clean and robust accuracy along --vary, one setting or two"
    query = "sensitivity"
    attacks = ("pgd",)
    settings = frozenset({"vary"})

    def plan(self, workspace: Workspace[AnalyzeSettings]) -> AnalysisPlan:
        """Plan the attacks on each defense at each place; what other runs have attacked already is reused."""
        settings = workspace.settings
        if not settings.varied:
            raise InputError("sensitivity needs what varies, such as --vary k=4,8,16 or --vary eps=2/255,4/255,8/255")
        attacks = self.asked_attacks(settings)
        needed = needed_defenses(workspace)
        varied = _Varied(workspace, needed)
        cells: list[Cell] = []
        sources: dict[str, AttackUnit] = {}
        of_attacks = {name: places for name, places in settings.varied.items() if name in OF_ATTACKS}
        for place in _places(of_attacks):
            epsilon = place["eps"][1] if "eps" in place else settings.threat.epsilon
            there = [_with_steps(attack, place) for attack in attacks]
            plan = plan_attacks(
                [spec for defense in needed.defenses for spec in varied.of(defense, place)],
                there,
                workspace.shards("test", settings.shard_size),
                base=base_attacks(workspace, there, ThreatModel(settings.norm, float(epsilon))),
                inspected=Shard.of("test", workspace.test, 0, 1),
                judge_draws=settings.judge_draws,
                save_points=points_to_save(settings.save_points, workspace.example[0]),
            )
            # An attack of other steps is the same column of the table.
            names = {each.label: attack.label for each, attack in zip(there, attacks, strict=True)}
            cells += [replace(cell, attack=names[cell.attack]) for cell in plan.cells]
            sources.update({unit.key: unit for unit in plan.sources})
        return AnalysisPlan(self.name, needed, tuple(cells), tuple(sources.values()), notes=(*needed.notes,))


def on_share(plan: RankingPlan, share: float) -> RankingPlan:
    """Return the ranking from the first `share` of its probe images, a fraction; the same one for a share of 1.

    Raises:
        InputError: if it reads no images.
    """
    if share == 1:
        return plan
    if not plan.shards:
        raise InputError(f"{plan.method} rankings read no probe images, so probe-share changes nothing")
    left = max(1, round(share * sum(len(shard.ids) for shard in plan.shards)))
    shards: list[Shard] = []
    for shard in plan.shards:
        if left > 0:
            shards.append(shard.first(left))
            left -= len(shards[-1].ids)
    return replace(plan, shards=tuple(shards))


def _places(varied: Mapping[str, Mapping[str, float | int | str]]) -> Iterator[Place]:
    """Yield every combination of the places of what is varied: text and value, by name."""
    for combination in product(*(places.items() for places in varied.values())):
        yield dict(zip(varied, combination, strict=True))


def _label(name: str, place: Place) -> str:
    return " ".join([name, *(f"{setting}={text}" for setting, (text, _) in place.items())])


def _with_steps(attack: NamedAttack, place: Place) -> NamedAttack:
    """Return `attack` with the number of steps of `place`; PGD of one step is FGSM.

    Raises:
        InputError: if it has no number of steps.
    """
    if "steps" not in place:
        return attack
    steps = int(place["steps"][1])
    registration = attack.registration
    if registration is None or registration.budget != "steps":
        raise InputError(f"{attack.label} has no number of steps to vary; vary those of pgd or tr-apgd-ce")
    name = attack.label.removesuffix(f"-{getattr(attack.algorithm, 'steps', '')}")
    if name == "pgd" and steps == 1:
        return parse_attack("fgsm")
    return parse_attack(name if steps == registration.published else f"{name}-{steps}")


@dataclass(frozen=True)
class _Varied:
    """Makes defenses with other settings, and adds the rankings that they need.

    Attributes:
        workspace: the model, its data and the settings.
        needed: where rankings are added.
    """

    workspace: Workspace[AnalyzeSettings]
    needed: NeededDefenses

    def of(self, defense: DefenseSpec, of_attacks: Place) -> list[DefenseSpec]:
        """Return `defense` at every place, called by its settings there; once where it has none of them."""
        varied = {
            name: places
            for name, places in self.workspace.settings.varied.items()
            if name not in OF_ATTACKS and self._has(defense, name)
        }
        order = list(self.workspace.settings.varied)
        specs = []
        for own in _places(varied):
            place = {**own, **of_attacks}
            name = self._method(defense) if "k" in own else defense.label
            label = _label(str(name), {each: place[each] for each in order if each in place})
            specs.append(replace(self._at(defense, own), label=label))
        return specs

    def _has(self, defense: DefenseSpec, name: str) -> bool:
        if name in ("layer", "probe-share"):
            return defense.ranking_id is not None
        return getattr(defense, name) is not None

    def _method(self, defense: DefenseSpec) -> str:
        return str(parse_defense(defense.label).method)

    def _at(self, defense: DefenseSpec, place: Place) -> DefenseSpec:
        values = {name: value for name, (_, value) in place.items()}
        workspace = self.workspace
        if "layer" in values:
            workspace = workspace.at_layer(str(values["layer"]))
            defense = replace(defense, layer=workspace.layer)
        if "layer" in values or "probe-share" in values:
            ranking = on_share(plan_ranking(workspace, self._method(defense)), float(values.get("probe-share", 1.0)))
            self.needed.rankings[ranking.ranking_id] = ranking
            defense = replace(defense, ranking_id=ranking.ranking_id)
        if "k" in values:
            defense = replace(defense, k=int(values["k"]))
        width = workspace.layer.width
        if defense.k is not None and defense.k > width:
            raise InputError(f"k must lie in 1…{width}, the neurons of {workspace.layer.name!r}, not {defense.k}")
        if "tau" in values:
            defense = replace(defense, tau=float(values["tau"]))
        if "sigma" in values:
            defense = replace(defense, sigma=float(values["sigma"]))
        if "draws" in values:
            defense = replace(defense, draws=int(values["draws"]))
        # Without noise every draw is the same.
        return replace(defense, draws=1) if defense.sigma == 0 else defense
