"""The class that a model predicts, or an error: not a number is no prediction."""

import torch
from torch import Tensor, nn

from igd_ray.errors import IgdError


@torch.no_grad()
def predicted_classes(model: nn.Module, images: Tensor) -> Tensor:
    """Return the class of the highest logit, int64 [n], for `images` [n, C, H, W].

    Raises:
        IgdError: if a logit is NaN; argmax would call that class 0, and an image of class 0 robust.
    """
    logits = model(images)
    invalid = int(torch.isnan(logits).any(dim=1).sum())
    if invalid:
        raise IgdError(f"the model gives NaN logits for {invalid} of {len(images)} images")
    return logits.argmax(dim=1)  # type: ignore[no-any-return]
