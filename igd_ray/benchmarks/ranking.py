"""LO-IR beside one plain pass over the probe set, and beside one pass for each neuron."""

from functools import partial

import torch
from torch import Tensor, nn

from igd_ray.benchmarks.alternating import CountedImages, alternate, comparison
from igd_ray.config import RankSettings
from igd_ray.data import LabeledImages
from igd_ray.models import Layer
from igd_ray.models.anatomy.layers import scaled
from igd_ray.models.anatomy.linear_suffix import is_linear_suffix
from igd_ray.planning.workspace import Workspace
from igd_ray.ranking import leave_one_out

# Neurons that the alternative ablates: its time for all of them is in proportion.
ABLATED = 8

IMAGES_AT_ONCE = 256

# Speed-ups that the project promises: one pass gives all neurons of a layer that the rest is linear in. Elsewhere only
# the rest runs for each neuron, which is a fraction of a pass.
GOAL_OF_PLAIN_PASS, GOAL_OF_ONE_PASS_PER_NEURON, GOAL_OF_LAYER = 0.9, 300.0, 3.5


def bench_ranking(workspace: Workspace[RankSettings], rounds: int) -> list[dict[str, object]]:
    """Rank the neurons of the workspace's layer, and compare.

    Returns:
        rows of `what`, `alternative`, `neurons`, `images`, the columns of `comparison`, `passes` and
        `alternative_passes`, in passes over the probe set through the whole model, and `largest_difference` of the
        scores of those neurons that the alternative ablated.
    """
    model, probe, layer = workspace.model, workspace.probe, workspace.layer
    rank = partial(leave_one_out, model, probe, layer=layer.name, batch_size=IMAGES_AT_ONCE)
    some = range(0, layer.width, max(1, layer.width // ABLATED))
    ablate = partial(ablated_scores, model, probe, layer, some)
    is_linear = is_linear_suffix(model, layer, workspace.example)
    with CountedImages(model) as counted:
        scores = rank().scores
    passes = counted.images / len(probe)
    ours, plain, ablated = alternate(rank, partial(plain_pass, model, probe), ablate, rounds=rounds)
    assert isinstance(ablated.answer, Tensor)
    what = {"what": f"LO-IR, {layer.name}"}
    size = {"neurons": layer.width, "images": len(probe)}
    rows = []
    if is_linear:
        plain_row = comparison(ours, plain, goal=GOAL_OF_PLAIN_PASS)
        rows.append(
            {
                **what,
                "alternative": "one plain pass",
                **size,
                **plain_row,
                "passes": passes,
                "alternative_passes": 1.0,
                "largest_difference": None,
            }
        )
    goal = GOAL_OF_LAYER
    if is_linear:
        # It cannot be faster than there are neurons.
        goal = min(GOAL_OF_ONE_PASS_PER_NEURON, GOAL_OF_PLAIN_PASS * layer.width)
    rows.append(
        {
            **what,
            "alternative": "one pass per neuron",
            **size,
            **comparison(ours, ablated, share=(1 + len(some)) / (1 + layer.width), goal=round(goal, 1)),
            "passes": passes,
            "alternative_passes": float(1 + layer.width),
            "largest_difference": float((scores[:, list(some)] - ablated.answer).abs().max()),
        }
    )
    return rows


def plain_pass(model: nn.Module, probe: LabeledImages) -> None:
    """Ask the model for the logits of every image."""
    with torch.no_grad():
        for images, _ in probe.batches(IMAGES_AT_ONCE):
            model(images)


def ablated_scores(model: nn.Module, probe: LabeledImages, layer: Layer, neurons: range) -> Tensor:
    """Return LO-IR of `neurons`, float64 [C, len(neurons)] in logits, by one pass more for each of them.

    This is eq. 5 word for word: the mean over a class's images of how far the class's logit moves when the neuron's
    output is set to zero.
    """
    classes = len(probe.class_names)
    totals = torch.zeros(classes, len(neurons), dtype=torch.float64)
    with torch.no_grad():
        for images, labels in probe.batches(IMAGES_AT_ONCE):
            own = model(images).double()[range(len(labels)), labels]
            for column, neuron in enumerate(neurons):
                kept = torch.ones(len(images), layer.width)
                kept[:, neuron] = 0
                with scaled(model, layer, kept):
                    without = model(images).double()[range(len(labels)), labels]
                totals[:, column].index_add_(0, labels, (own - without).abs())
    return totals / torch.bincount(probe.labels, minlength=classes)[:, None]
