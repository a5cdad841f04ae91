"""From defense labels to defenses with all of their settings, and the rankings and trainings that they need first."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import Tensor, nn

from igd_ray.config import EvaluateSettings
from igd_ray.defenses.contract import Contract
from igd_ray.defenses.own import OwnDefense
from igd_ray.defenses.registry import ProbeImages
from igd_ray.defenses.sodef import SodefTraining
from igd_ray.defenses.specs import DefenseLabel, DefenseSpec, given_arguments, parse_defense
from igd_ray.errors import InputError
from igd_ray.models import Layer
from igd_ray.planning.rankings import RankingPlan, plan_ranking, require_fit
from igd_ray.planning.search import defense_of
from igd_ray.planning.search.stored import read_search
from igd_ray.planning.training import SodefPlan, plan_sodef
from igd_ray.planning.workspace import TRAIN, Workspace
from igd_ray.ranking import RANKINGS
from igd_ray.search import Setting
from igd_ray.threat import ThreatModel
from igd_ray.units.base import Unit


@dataclass
class NeededDefenses:
    """Defenses, what they need, and what is to be said of them.

    Attributes:
        defenses: each once.
        rankings: to compute before, by method.
        training: of SODEF, to run before.
        notes: on which images rankings, searches and trainings worked.
    """

    defenses: list[DefenseSpec] = field(default_factory=list)
    rankings: dict[str, RankingPlan] = field(default_factory=dict)
    training: SodefPlan | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def units(self) -> list[Unit]:
        """All units of rankings and trainings."""
        ranked = [unit for ranking in self.rankings.values() for unit in ranking.units]
        return [*ranked, *(self.training.units if self.training else ())]


def needed_defenses(workspace: Workspace[EvaluateSettings]) -> NeededDefenses:
    """Resolve labels, given rankings and finished searches.

    Raises:
        InputError: for anything that cannot be used, or two different defenses of one label.
    """
    needed = NeededDefenses()
    settings = workspace.settings
    labels = [_label(workspace, entry) for entry in dict.fromkeys(settings.defenses)]
    given = _given_rankings(workspace, labels, needed.notes)
    arguments = given_arguments(settings.defense_arg, [label.label for label in labels if label.own])
    for label in labels:
        needed.defenses.append(_resolve(workspace, label, given, arguments, needed))
    needed.defenses += [_from_search(workspace, search_id, needed.notes) for search_id in settings.from_search]
    needed.defenses = list({defense.defense_id: defense for defense in needed.defenses}.values())
    for name in {defense.label for defense in needed.defenses}:
        same = [defense for defense in needed.defenses if defense.label == name]
        if len(same) > 1:
            settings_of = " and ".join(f"σ = {one.sigma:g}, τ = {one.tau:g}, draws = {one.draws}" for one in same)
            raise InputError(f"{len(same)} defenses are called {name} ({settings_of}); evaluate them in separate runs")
    return needed


@dataclass(frozen=True)
class _Run:
    """What defenses are told of the run, and what they ask of it."""

    workspace: Workspace[EvaluateSettings]
    needed: NeededDefenses

    @property
    def threat(self) -> ThreatModel:
        return self.workspace.settings.threat

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.workspace.class_names

    def layer(self, name: str | None = None) -> Layer:
        return self.workspace.layer if name is None else self.workspace.find_layer(name)

    def train_sodef(self, settings: SodefTraining) -> str:
        training = plan_sodef(self.workspace, asdict(settings))
        self.needed.training = training
        self.needed.notes.append(
            f"sodef: trained on {len(self.workspace.probe)} images of the split {self.workspace.probe.split!r}"
        )
        return training.training_id

    @property
    def model(self) -> nn.Module:
        return self.workspace.model

    def probe(self) -> tuple[ProbeImages, str]:
        probe = self.workspace.probe
        return ProbeImages(probe.images, probe.labels), probe.fingerprint

    def examples(self, n: int) -> tuple[Tensor, Tensor]:
        return next(iter(self.workspace.test.select(slice(0, n)).batches(n)))

    def bring_code(self, file: Path) -> None:
        self.workspace.bring_code(file)


def contract_of(workspace: Workspace[EvaluateSettings]) -> tuple[OwnDefense, Contract]:
    """Look at the defense in a file that the settings name, on a few images; return it, and what was found.

    Raises:
        InputError: if there is none, or its file or arguments cannot be used.
    """
    settings = workspace.settings
    label = parse_defense(settings.defenses[-1])
    if label.own is None:
        raise InputError(f"igd check takes a defense in a file, FILE.py:factory, not {label.label!r}")
    own = label.own.imported()
    given = given_arguments(settings.defense_arg, [label.label]).get(label.label, {})
    return own, own.look(own.checked(given)[0], _Run(workspace, NeededDefenses()))


def _label(workspace: Workspace[EvaluateSettings], entry: str) -> DefenseLabel:
    own = workspace.given.defenses.get(entry)
    return parse_defense(entry) if own is None else DefenseLabel(own.label, own.name, own=own)


def _resolve(
    workspace: Workspace[EvaluateSettings],
    label: DefenseLabel,
    given: Mapping[str, str],
    arguments: Mapping[str, Mapping[str, object]],
    needed: NeededDefenses,
) -> DefenseSpec:
    run, settings = _Run(workspace, needed), workspace.settings
    kind, own = label.registered.prepared(arguments.get(label.argument_prefix, {}), run)
    noise = settings.noise if kind.takes_noise else None
    method = kind.ranking(label, own)
    return DefenseSpec(
        label=label.label,
        model_id=workspace.model_id,
        kind=label.kind,
        k=label.kept(workspace.layer.width, workspace.layer.name) if label.number else None,
        sigma=noise,
        tau=settings.tau if kind.takes_temperature else None,
        draws=None if noise is None else settings.draws if noise else 1,
        layer=kind.layer(run),
        ranking_id=_ranking_id(workspace, method, given, needed) if method else None,
        arguments=tuple(sorted(own.items())),
        own=kind if label.own else None,
    )


def _ranking_id(
    workspace: Workspace[EvaluateSettings], method: str, given: Mapping[str, str], needed: NeededDefenses
) -> str:
    if method in given:
        return given[method]
    if method not in needed.rankings:
        needed.rankings[method] = plan_ranking(workspace, method)
        if needed.rankings[method].shards:
            needed.notes.append(
                f"{method}: neurons ranked on {len(workspace.probe)} images of the split {workspace.probe.split!r}"
            )
    return needed.rankings[method].ranking_id


def _given_rankings(
    workspace: Workspace[EvaluateSettings], labels: list[DefenseLabel], notes: list[str]
) -> dict[str, str]:
    """Return the rankings given by id, by method, after checking that they fit this model and layer and are used."""
    given: dict[str, str] = {}
    used = {label.method for label in labels}
    for ranking_id in dict.fromkeys(workspace.settings.ranking):
        row = workspace.catalog.read("rankings", ranking_id).slice(0, 1).to_pylist()[0]
        method = str(row["method"])
        require_fit(f"ranking {ranking_id}", row, workspace.model_id, workspace.source.label, workspace.layer)
        if method in given:
            raise InputError(f"--ranking gives two {method} rankings; evaluate them in separate runs")
        if method not in used:
            raise InputError(f"--ranking {ranking_id} is a {method} ranking, which no defense uses; add {method}-K")
        given[method] = ranking_id
        notes.append(_provenance(row))
    return given


def _from_search(workspace: Workspace[EvaluateSettings], search_id: str, notes: list[str]) -> DefenseSpec:
    """Return the defense that a finished search chose, after checking that it fits this model and layer."""
    row = read_search(workspace.catalog, search_id)
    if "defense" in (details := json.loads(str(row["details"] or "{}"))):
        raise InputError(
            f"search {search_id} is of a defense in a file, {details['defense']}; name it, with what the search chose: "
            f"--defenses none,NAME=FILE.py:factory --defense-arg NAME.k={row['k']}"
        )
    require_fit(f"search {search_id}", row, workspace.model_id, workspace.source.label, workspace.layer)
    same_split = row["split"] == workspace.settings.split
    flattered = "the model has seen training images" if row["split"] == TRAIN else "they may be evaluated, too"
    tail = f"; {flattered}, which flatters clean accuracy on them" if same_split or row["split"] == TRAIN else ""
    notes.append(f"{row['method']}: k chosen on {row['n']} images of the split {row['split']!r}{tail}")
    ranking = workspace.catalog.read("rankings", str(row["ranking_id"])).slice(0, 1).to_pylist()[0]
    notes.append(_provenance(ranking))
    class_k = row["class_k"]
    k = tuple(int(each) for each in class_k) if isinstance(class_k, list) else int(str(row["k"]))
    setting = Setting(k, float(str(row["sigma"])), float(str(row["tau"])), int(str(row["draws"])))
    label = f"{row['method']}-{'per-class' if class_k is not None else k}"
    return defense_of(setting, label, workspace.model_id, workspace.layer, str(row["ranking_id"]))


def _provenance(ranking: Mapping[str, object]) -> str:
    """Say what a stored ranking, given as one of its rows, was made of."""
    method = ranking["method"]
    if ranking["probe_images"]:
        return f"{method}: neurons ranked on {ranking['probe_images']} images of {ranking['dataset']}"
    drawn = method in RANKINGS and RANKINGS[str(method)].uses_seed
    return f"{method}: neurons ranked {'at random' if drawn else 'elsewhere, and imported'}"
