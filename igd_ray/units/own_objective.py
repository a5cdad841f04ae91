"""The objective of a search over the arguments of a defense in a file: each trial runs the defense itself."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from igd_ray.defenses.registry import ProbeImages
from igd_ray.defenses.specs import DefenseSpec
from igd_ray.identity import content_hash, derive_seed
from igd_ray.search import Measurement, Setting
from igd_ray.units.objective import Array
from igd_ray.units.replica import ImageArrays, ModelSource

# Images that the defense is given at a time.
BATCH = 256


def with_setting(defense: DefenseSpec, setting: Setting, searched: Sequence[str]) -> DefenseSpec:
    """Return `defense` with those arguments that are `searched`, of k, sigma, tau and draws, as in `setting`."""
    assert isinstance(setting.k, int)
    values = {"k": setting.k, "sigma": setting.sigma, "tau": setting.tau, "draws": setting.draws}
    arguments = {**dict(defense.arguments), **{name: values[name] for name in searched}}
    return replace(defense, arguments=tuple(sorted(arguments.items())))


@dataclass(frozen=True)
class OwnObjectiveSource:
    """What the objective is built from.

    Attributes:
        model: the base model.
        defense: in a file, with the arguments that are not searched.
        searched: the names of the arguments that are.
        scores: of its ranking, [C, N]; None where it asks for none.
        images, probe: the search images, and the training images where it asks for them.
        seed: the run's.
    """

    model: ModelSource
    defense: DefenseSpec
    searched: tuple[str, ...]
    scores: Array | None
    images: ImageArrays
    probe: ImageArrays | None
    seed: int

    def build(self) -> "OwnCleanAccuracy":
        """Return the objective, on the CPU."""
        return OwnCleanAccuracy(self, self.model.load("cpu"))


class OwnCleanAccuracy:
    """The clean accuracy of the defense with a setting; the base model's predictions are computed once."""

    def __init__(self, source: OwnObjectiveSource, model: nn.Module) -> None:
        self._source, self._model = source, model
        self._labels = torch.from_numpy(source.images.labels.copy())
        self._base = self._predictions(model, torch.Generator())

    def measure(self, setting: Setting) -> Measurement:
        """Return the clean predictions of the defense with `setting`, compared with the base model's."""
        source, generator = self._source, torch.Generator()
        probe = None if source.probe is None else ProbeImages(*source.probe.slice(0, len(source.probe.labels)))
        defense = with_setting(source.defense, setting, source.searched).build(
            self._model,
            generator,
            scores=None if source.scores is None else torch.from_numpy(source.scores.copy()),
            probe=probe,
            class_names=source.images.class_names,
        )
        right, base = self._predictions(defense, generator) == self._labels, self._base == self._labels
        return Measurement(
            images=self._counts(self._labels),
            base_correct=self._counts(self._labels[base]),
            gained=self._counts(self._labels[right & ~base]),
            lost=self._counts(self._labels[base & ~right]),
        )

    @torch.no_grad()
    def _predictions(self, target: nn.Module, generator: torch.Generator) -> Tensor:
        """Return the classes of all search images; the noise of a batch is the same for every setting."""
        predictions = []
        for start in range(0, len(self._labels), BATCH):
            images, _ = self._source.images.slice(start, start + BATCH)
            key = content_hash([self._source.defense.model_id, self._source.seed, start])
            generator.manual_seed(derive_seed(key, "noise"))
            predictions.append(target(images).argmax(dim=1))
        return torch.cat(predictions)

    def _counts(self, labels: Tensor) -> tuple[int, ...]:
        return tuple(torch.bincount(labels, minlength=len(self._source.images.class_names)).tolist())
