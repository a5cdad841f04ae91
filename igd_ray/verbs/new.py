"""`igd new defense|attack|ranking NAME`: a commented starting file that passes `igd check`."""

import argparse
import re
from pathlib import Path
from typing import NamedTuple

from igd_ray.errors import InputError

DEFENSE = '''"""A test-time defense. Try it with:

    igd check {name}.py:factory
    igd evaluate --defenses none,{name}={name}.py:factory --attacks aa,audit --n 64
"""

import torch
from torch import nn


class Defense(nn.Module):
    """The base model on images with less detail, with a little noise."""

    def __init__(self, model, levels, sigma, generator):
        super().__init__()
        # The base model, frozen and in eval mode. Leave it as it is: other defenses of the run share it.
        self.model = model
        self.levels = levels
        self.sigma = sigma
        self.generator = generator

    def forward(self, x):
        """Return float logits [B, C] of images [B, channels, H, W] in [0, 1]."""
        # Draw from the generator that igd gives, never from torch's global one: a seed then repeats every verdict.
        noise = torch.randn(x.shape, generator=self.generator).to(x)
        noisy = x + self.sigma * noise
        # Rounding has no gradient: `audit-bpda` takes the identity in its place.
        return self.model((noisy * (self.levels - 1)).round() / (self.levels - 1))

    # Where the identity is a poor stand-in, return logits here whose gradients are better; the attacks follow those:
    # def backward_surrogate(self, x):
    #     return self.model(x)

    # A defense of two passes offers them to the adaptive attacks:
    # def first_logits(self, x):                      the first pass's logits, [B, C]
    # def pseudo_labels(self, first_logits):          class weights [B, C] for the second pass
    # def masked_logits(self, x, class_weights):      the second pass's logits, [B, C]


def factory(model, generator, levels=16, sigma=0.02):
    """Return the defended model.

    Parameters of these names are given by igd: generator (the defense then counts as random), probe (its `images` and
    `labels` are training images), scores (of a ranking, [classes, neurons]), class_names and device. Any other
    parameter is an argument: --defense-arg {name}.levels=8.
    """
    return Defense(model, levels, sigma, generator)
'''

ATTACK = '''"""An attack. Try it with:

    igd check {name}.py:Search
    igd evaluate --defenses none,loir-8 --attacks {label}={name}.py:Search,tr-{label}={name}.py:Search --n 64
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import cross_entropy

from igd_ray.attacks import Attack, moved_points
from igd_ray.errors import InputError


# The fields are its settings: numbers, texts, true or false. What they are and the text of this file are its identity.
@dataclass(frozen=True)
class Search(Attack):
    """Gradient steps from random corners of the ball."""

    # The first line above is its idea in the report; call it audit-{label} to attack what others left robust.

    steps: int = 10

    # Say so if it attacks all images, not only those that its first question finds right:
    # leaves_misclassified: ClassVar[bool] = False

    def most_passes(self, num_classes):
        """Return how many queries and gradients an image takes at most: --dry-run tells the cost by it."""
        # igd's look at the number of classes, the first look, and one query a step and at its end.
        return 2 + self.steps + 1, self.steps

    def search(self, target, images, labels, threat, seed):
        """Return a point for each image: within threat.epsilon of it, in [0, 1], without NaN.

        `target` gives logits [B, C], and counts what it is asked; igd checks the points, and asks anew for the verdict.
        """
        before = target.queries, target.forwards, target.backwards
        # The first question is about all images as they are: igd reads from it which ones are left alone.
        rows = (target(images).argmax(dim=1) == labels).nonzero().flatten()
        points = images.clone()
        if len(rows):
            # Draw with the seed, never from torch's global generator: a seed then repeats every point.
            generator = torch.Generator().manual_seed(seed)
            signs = torch.randint(2, images[rows].shape, generator=generator).to(images) * 2 - 1
            low, high = (images[rows] - threat.epsilon).clamp(min=0), (images[rows] + threat.epsilon).clamp(max=1)
            found = (images[rows] + threat.epsilon * signs).clamp(low, high)
            for _ in range(self.steps):
                found.requires_grad_()
                loss = cross_entropy(target(found), labels[rows], reduction="sum")
                (gradient,) = torch.autograd.grad(loss, [found])
                found = (found.detach() + 2 / self.steps * threat.epsilon * gradient.sign()).clamp(low, high)
            points[rows] = found
        return moved_points(points, self.name, target, before, images)

    def check(self, num_classes, norm):
        """Say before any work what it cannot attack."""
        if norm.value != "linf":
            raise InputError("its steps are those of the infinity norm; use --norm linf")
'''

RANKING = '''"""A ranking of neurons. Try it with:

    igd check {name}.py:Ranking
    igd rank --method {name}={name}.py:Ranking
    igd evaluate --method {name}={name}.py:Ranking --defenses none,{name}-8 --attacks aa,tr-aa --n 64
"""

from dataclasses import dataclass

from torch import nn

from igd_ray.ranking import StatisticRanking, pooled_activations


# The fields are its settings, --method-arg {name}.power=2; they and the text of this file are its identity.
@dataclass(frozen=True)
class Ranking(StatisticRanking):
    """A neuron matters to a class by how much more active it is on that class than on average."""

    power: float = 1.0

    def update(self, batch):
        """Return arrays by name that tell everything of one shard of images; it runs on any worker, in any order.

        `batch` has images [B, channels, H, W] in [0, 1], labels [B] and the model, which must stay as it is.
        """
        # Of self.layer, [B, N]; in float64, so that the order of shards does not show in the sums.
        activations = pooled_activations(batch.model, self.layer, batch.images).double().abs() ** self.power
        classes = nn.functional.one_hot(batch.labels, len(self.class_names)).double()
        return {"totals": classes.T @ activations, "counts": classes.sum(dim=0)}

    # The states of shards are added up. Where that is not what they need, say how, in the order of the images:
    # def merge(self, states):
    #     return {name: torch.cat([state[name] for state in states]) for name in states[0]}

    def compute(self, state):
        """Return scores [classes, neurons], higher for what a class needs more: masks keep the highest."""
        means = state["totals"] / state["counts"].clamp(min=1)[:, None]
        return means - means.mean(dim=0)
'''


class Start(NamedTuple):
    """A starting file: its text, and the name in it that `igd check` takes."""

    text: str
    checked: str


STARTS = {
    "defense": Start(DEFENSE, "factory"),
    "attack": Start(ATTACK, "Search"),
    "ranking": Start(RANKING, "Ranking"),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.add_argument("what", choices=list(STARTS), help="what the file is for")
    parser.add_argument("name", metavar="NAME", help="what it is called: NAME.py is written here")


def run(arguments: argparse.Namespace) -> int:
    """Write the file, and say what to do with it."""
    name: str = arguments.name
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise InputError(f"NAME is that of a Python module, lower-case letters, digits and _, not {name!r}")
    path, start = Path(f"{name}.py"), STARTS[arguments.what]
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(start.text.replace("{name}", name).replace("{label}", name.replace("_", "-")))
    except FileExistsError:
        raise InputError(f"there is a file {path} already; choose another name") from None
    print(f"wrote {path}; check it with: igd check {path}:{start.checked}")
    return 0
