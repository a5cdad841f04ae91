"""pyautoattack's attack classes, run so that they disturb nothing and depend on nothing but their seed."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from igd_ray.attacks.base import Points, even_shares
from igd_ray.attacks.counting import CountedTarget
from igd_ray.threat import Norm

# The names pyautoattack gives to norms.
NORM_NAMES = {Norm.LINF: "Linf", Norm.L2: "L2"}

# Its attacks warn of zero gradients through a logger; the platform measures those itself, as a check.
SILENT = logging.getLogger("igd_ray.attacks.pyautoattack")
SILENT.addHandler(logging.NullHandler())
SILENT.propagate = False


@contextmanager
def forked_generators(device: torch.device) -> Iterator[None]:
    """While open, the global generators may be seeded and used; afterwards they are as before.

    pyautoattack seeds the global generator of every run, which would otherwise freeze a defense's noise or let
    one unit's result depend on another's.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


def run_search(
    perturb: Callable[[Tensor, Tensor], Tensor], stage: str, target: CountedTarget, images: Tensor, labels: Tensor
) -> Points:
    """Run pyautoattack's `perturb(images, labels)`; the points are what it returns, misclassified images excepted."""
    before = target.queries, target.forwards, target.backwards
    with forked_generators(images.device):
        adversarial = perturb(images.clone(), labels.clone()).detach()
    moved = (adversarial != images).flatten(1).any(dim=1)
    queries, forwards, backwards = even_shares(target, before, len(images), images.device)
    stages: list[str | None] = [stage if row else None for row in moved.tolist()]
    return Points(adversarial, stages, moved, queries, forwards, backwards)
