"""The losses that gradient attacks climb, one value per row."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

# Keeps the denominators of DLR from being 0, as in AutoAttack.
TINY = 1e-12

# A loss [B] of logits [B, C], labels [B] and target classes [B].
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def ce(logits: Tensor, labels: Tensor, _targets: Tensor) -> Tensor:
    """Return the cross-entropy.

    >>> round(ce(torch.zeros(1, 4), torch.tensor([0]), torch.tensor([1])).item(), 4)
    1.3863
    """
    return cross_entropy(logits, labels, reduction="none")


def cw(logits: Tensor, labels: Tensor, _targets: Tensor) -> Tensor:
    """Return −(z_y − max_{j≠y} z_j) (Carlini & Wagner, IEEE S&P 2017).

    >>> cw(torch.tensor([[5.0, 3.0, 1.0]]), torch.tensor([0]), torch.tensor([1])).item()
    -2.0
    """
    return _best_wrong(logits, labels) - _of(logits, labels)


def dlr(logits: Tensor, labels: Tensor, _targets: Tensor) -> Tensor:
    """Return −(z_y − max_{j≠y} z_j)/(z_π1 − z_π3), π sorting z in descending order (Croce & Hein, ICML 2020, eq. 6).

    >>> dlr(torch.tensor([[5.0, 3.0, 1.0]]), torch.tensor([0]), torch.tensor([1])).item()
    -0.5
    """
    highest = logits.topk(3, dim=1).values
    return (_best_wrong(logits, labels) - _of(logits, labels)) / (highest[:, 0] - highest[:, 2] + TINY)


def targeted_dlr(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return −(z_y − z_t)/(z_π1 − (z_π3 + z_π4)/2) (Croce & Hein, ICML 2020, eq. 7).

    >>> targeted_dlr(torch.tensor([[5.0, 3.0, 1.0, 1.0]]), torch.tensor([0]), torch.tensor([1])).item()
    -0.5
    """
    highest = logits.topk(4, dim=1).values
    scale = highest[:, 0] - 0.5 * (highest[:, 2] + highest[:, 3]) + TINY
    return -(_of(logits, labels) - _of(logits, targets)) / scale


def targeted_margin(logits: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
    """Return −(z_y − z_t), the numerator of the targeted DLR.

    >>> targeted_margin(torch.tensor([[5.0, 3.0, 1.0]]), torch.tensor([0]), torch.tensor([1])).item()
    -2.0
    """
    return _of(logits, targets) - _of(logits, labels)


def _of(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None])[:, 0]


def _best_wrong(logits: Tensor, labels: Tensor) -> Tensor:
    true = torch.arange(logits.shape[1], device=logits.device) == labels[:, None]
    return logits.masked_fill(true, -torch.inf).amax(dim=1)


UNTARGETED: dict[str, Loss] = {"ce": ce, "cw": cw, "dlr": dlr}
TARGETED: dict[str, Loss] = {"dlr": targeted_dlr, "margin": targeted_margin}
