"""Neuron importance rankings: which neurons of a layer matter to which class."""

from igd_ray.ranking.clip_dissect import clip_dissect
from igd_ray.ranking.imported import import_rankings
from igd_ray.ranking.leave_one_out import leave_one_out
from igd_ray.ranking.prompts import class_prompts, embed_classes
from igd_ray.ranking.random import random_scores
from igd_ray.ranking.scores import NeuronScores
from igd_ray.ranking.similarity import SIMILARITIES, rank_reorder, soft_wpmi, wpmi

__all__ = [
    "SIMILARITIES",
    "NeuronScores",
    "class_prompts",
    "clip_dissect",
    "embed_classes",
    "import_rankings",
    "leave_one_out",
    "random_scores",
    "rank_reorder",
    "soft_wpmi",
    "wpmi",
]
