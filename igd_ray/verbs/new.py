"""`igd new defense NAME`: a commented starting file that passes `igd check`."""

import argparse
import re
from pathlib import Path

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

TEMPLATES = {"defense": DEFENSE}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the flags."""
    parser.epilog = "Example: igd new defense mine && igd check mine.py:factory"
    parser.add_argument("what", choices=list(TEMPLATES), help="what the file is for")
    parser.add_argument("name", metavar="NAME", help="what it is called: NAME.py is written here")


def run(arguments: argparse.Namespace) -> int:
    """Write the file, and say what to do with it."""
    name: str = arguments.name
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise InputError(f"NAME is that of a Python module, lower-case letters, digits and _, not {name!r}")
    path = Path(f"{name}.py")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(TEMPLATES[arguments.what].replace("{name}", name))
    except FileExistsError:
        raise InputError(f"there is a file {path} already; choose another name") from None
    print(f"wrote {path}; check it with: igd check {path}:factory")
    return 0
