"""The class that a model predicts; an error where its logits name none."""

import torch
from torch import Tensor, nn

from igd_ray.errors import IgdError


@torch.no_grad()
def predicted_classes(model: nn.Module, images: Tensor) -> Tensor:
    """Return the class of the highest logit, int64 [n], for `images` [n, C, H, W].

    Raises:
        IgdError: if a logit is NaN, which argmax would call the highest, or infinite, whose margins are no numbers
            for an attack.
    """
    logits = model(images)
    invalid = int((~torch.isfinite(logits)).any(dim=1).sum())
    if invalid:
        raise IgdError(f"the model gives NaN or infinite logits for {invalid} of {len(images)} images")
    return logits.argmax(dim=1)  # type: ignore[no-any-return]
