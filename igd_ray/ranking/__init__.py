"""Neuron importance rankings: which neurons of a layer matter to which class."""

from igd_ray.ranking.clip_dissect import clip_dissect, soft_wpmi
from igd_ray.ranking.leave_one_out import leave_one_out
from igd_ray.ranking.random import random_scores
from igd_ray.ranking.scores import NeuronScores

__all__ = ["NeuronScores", "clip_dissect", "leave_one_out", "random_scores", "soft_wpmi"]
