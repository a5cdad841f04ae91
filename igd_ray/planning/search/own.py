"""The search for k, and for σ, τ and draws where they are arguments, of a defense in a file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from igd_ray.catalog import Catalog
from igd_ray.config import EvaluateSettings, SearchSettings, WorkspaceSettings
from igd_ray.defenses.own import OwnDefense
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.identity import content_hash
from igd_ray.planning.defenses import needed_defenses
from igd_ray.planning.search import SearchPlan, search_ks
from igd_ray.planning.workspace import NamedModel, Workspace
from igd_ray.search import Noise, SearchSpace, Setting
from igd_ray.units.base import Unit
from igd_ray.units.objective import Source
from igd_ray.units.own_objective import OwnObjectiveSource, with_setting
from igd_ray.units.ranking import read_ranking
from igd_ray.units.replica import ImageArrays, ModelSource

# The arguments of a factory that are searched, and the flags that say which values are tried.
SEARCHED: Mapping[str, tuple[str, ...]] = {
    "k": (),
    "sigma": ("sigma", "sigmas"),
    "tau": ("tau", "taus"),
    "draws": ("draws", "draw_counts"),
}

# What stands for an argument that a factory does not have; no row shows it.
ABSENT = {"sigma": 0.0, "tau": 1.0, "draws": 1}


@dataclass(frozen=True)
class OwnSearchPlan(SearchPlan):
    """A search over the arguments of a defense in a file.

    Attributes:
        own: the defense, with the arguments that are not searched.
        entry: how the command line names it.
        searched: the names of the arguments that are.
        images, probe: the search images, and the training images where it asks for them.
        named: the base model.
    """

    own: DefenseSpec
    entry: str
    searched: tuple[str, ...]
    images: ImageArrays
    probe: ImageArrays | None
    named: NamedModel

    @property
    def base(self) -> NamedModel:
        """The model and its classes."""
        return self.named

    @property
    def method(self) -> str:
        """The label of the defense."""
        return self.own.label

    @cached_property
    def activations(self) -> tuple[Unit, ...]:
        """None: each trial runs the defense."""
        return ()

    @cached_property
    def noisy_logits(self) -> dict[Noise, tuple[Unit, ...]]:
        """None: each trial runs the defense."""
        return {}

    @property
    def identity(self) -> Mapping[str, object]:
        """The defense without what is searched, and the images."""
        fixed = {name: value for name, value in self.own.arguments if name not in self.searched}
        images = content_hash([list(self.images.ids), self.images.labels.tolist()])
        return {"defense": fixed, "searched": list(self.searched), "images": images, "model": self.own.model_id}

    @property
    def details(self) -> Mapping[str, object]:
        """Which defense it is of."""
        return {"defense": Path(self.entry).name}

    def columns(self, setting: Setting) -> dict[str, object]:
        """Return the values of `setting`; NULL for what the factory does not take."""
        return {name: value if name in self.searched else None for name, value in super().columns(setting).items()}

    def defense(self, setting: Setting, label: str) -> DefenseSpec:
        """Return the defense with `setting`, called `label`."""
        spec = with_setting(self.own, setting, self.searched)
        return DefenseSpec(
            label,
            spec.model_id,
            spec.kind,
            layer=spec.layer,
            ranking_id=spec.ranking_id,
            arguments=spec.arguments,
            own=spec.own,
        )

    def usage(self, setting: Setting) -> str:
        """Return the flags that evaluate the defense with `setting`."""
        values = self.columns(setting)
        given = "".join(f" --defense-arg {self.own.label}.{name}={values[name]}" for name in self.searched)
        return f"--defenses none,{self.entry}{given}"

    def objective(self, catalog: Catalog, model: ModelSource) -> Source:
        """Return what measures a setting: the defense itself, on all search images."""
        ranking_id = self.ranking_id
        scores = None if ranking_id is None else read_ranking(catalog, ranking_id).scores.numpy()
        return OwnObjectiveSource(model, self.own, self.searched, scores, self.images, self.probe, self.settings.seed)


def plan_own_search(workspace: Workspace[SearchSettings], entry: str) -> OwnSearchPlan:
    """Plan the search over the arguments of the defense NAME=FILE.py:factory that `entry` names.

    Raises:
        InputError: if its factory has no argument `k`, or lacks one that is to be searched, or nothing says which k to
            try; or as an evaluation of it.
    """
    settings = workspace.settings
    shared = {
        name: getattr(settings, name) for name in settings.model_fields_set if name in WorkspaceSettings.model_fields
    }
    evaluation = EvaluateSettings(**shared, defenses=(entry,), defense_arg=settings.defense_arg)
    needed = needed_defenses(workspace.with_settings(evaluation))
    (spec,) = needed.defenses
    arguments = dict(spec.arguments)
    searched = tuple(name for name in SEARCHED if name in arguments)
    own = spec.own
    assert isinstance(own, OwnDefense)
    if "k" not in searched:
        own.refuse(
            "a search tries k of a factory that has an argument `k`, which this one does not; compare other settings "
            f"in igd evaluate, such as --defense-arg {spec.label}.NAME=VALUE"
        )
    if spec.ranking_id is None and settings.k_values is None:
        own.refuse("its k is not of a ranking's neurons, as it asks for no `scores`; say with --ks 1,2,4 what is tried")
    if f"{spec.label}.k" in settings.defense_arg:
        own.refuse(f"--defense-arg {spec.label}.k: k is searched; leave it out, or say with --ks what is tried")
    for name, flags in SEARCHED.items():
        given = next((flag for flag in flags if flag in settings.model_fields_set), None)
        if given is not None and name not in searched:
            own.refuse(f"--{given.replace('_', '-')}: its factory has no argument {name!r} to search")

    def tried(name: str, values: Callable[[], Sequence[float]]) -> tuple[float, ...]:
        """Return what is tried of an argument: what the flags say, or else its default."""
        if any(flag in settings.model_fields_set for flag in SEARCHED[name]):
            return tuple(values())
        default = arguments.get(name, ABSENT[name])
        if isinstance(default, str):
            own.refuse(f"its argument {name!r} must be a number to be searched, not {default!r}")
        return (float(default),)

    space = SearchSpace(
        search_ks(workspace) if spec.ranking_id is not None else settings.k_values or (),
        tried("sigma", lambda: settings.sigma_values),
        tried("tau", lambda: settings.taus or (settings.tau,)),
        tuple(int(count) for count in tried("draws", lambda: settings.draw_counts or (settings.draws,))),
    )
    images = workspace.search
    probe = ImageArrays.of(workspace.probe) if "probe" in own.asks else None
    return OwnSearchPlan(
        next(iter(needed.rankings.values()), None),
        settings,
        images.labels,
        workspace.shards("search"),
        space,
        own=spec,
        entry=entry,
        searched=searched,
        images=ImageArrays.of(images),
        probe=probe,
        named=workspace.named,
    )
