"""Neuron importance rankings: which neurons of a layer matter to which class."""

from importlib import import_module
from pkgutil import iter_modules

from igd_ray.ranking.base import (
    RANKINGS,
    Batch,
    Probe,
    Ranking,
    State,
    Statistic,
    StatisticRanking,
    pooled_activations,
    ranking_class,
    register,
)
from igd_ray.ranking.clip_dissect import (
    SIMILARITIES,
    clip_dissect,
    rank_reorder,
    soft_wpmi,
    wpmi,
)
from igd_ray.ranking.imported import GivenRanking, import_rankings
from igd_ray.ranking.in_process import rank_neurons
from igd_ray.ranking.leave_one_out import leave_one_out
from igd_ray.ranking.prompts import class_prompts, embed_classes
from igd_ray.ranking.random import random_scores
from igd_ray.ranking.scores import NeuronScores

__all__ = [
    "RANKINGS",
    "SIMILARITIES",
    "Batch",
    "GivenRanking",
    "NeuronScores",
    "Probe",
    "Ranking",
    "State",
    "Statistic",
    "StatisticRanking",
    "class_prompts",
    "clip_dissect",
    "embed_classes",
    "import_rankings",
    "leave_one_out",
    "pooled_activations",
    "random_scores",
    "rank_neurons",
    "rank_reorder",
    "ranking_class",
    "register",
    "soft_wpmi",
    "wpmi",
]

# A ranking registers itself when its file is imported.
for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
