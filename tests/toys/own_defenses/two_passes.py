"""loir-K without noise, written again from its equations (Kulkarni & Weng, ECCV 2024, eq. 3 to 6)."""

import torch
from torch import Tensor, nn


class TwoPasses(nn.Module):
    """The base model, whose second pass keeps only the neurons of the class that the first one predicts."""

    def __init__(self, model: nn.Module, masks: Tensor, tau: float) -> None:
        super().__init__()
        self.model = model
        self.tau = tau
        self.register_buffer("masks", masks)
        self.classifier = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]

    def forward(self, x: Tensor) -> Tensor:
        return self.masked_logits(x, self.pseudo_labels(self.first_logits(x)))

    def first_logits(self, x: Tensor) -> Tensor:
        return self.model(x)

    def pseudo_labels(self, first_logits: Tensor) -> Tensor:
        return torch.softmax(first_logits / self.tau, dim=1)

    def masked_logits(self, x: Tensor, class_weights: Tensor) -> Tensor:
        kept = class_weights @ self.masks.to(class_weights)
        handle = self.classifier.register_forward_pre_hook(lambda _module, inputs: (inputs[0] * kept,))
        try:
            return self.model(x)
        finally:
            handle.remove()


def factory(model: nn.Module, scores: Tensor, device: torch.device, k: int = 16, tau: float = 0.01) -> nn.Module:
    places = scores.argsort(dim=1, descending=True, stable=True)[:, :k]
    masks = torch.zeros(scores.shape, dtype=torch.float32).scatter_(1, places.cpu(), 1.0)
    return TwoPasses(model, masks.to(device), tau)
