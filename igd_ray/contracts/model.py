"""What a base model owes to an evaluation."""

import torch
from torch import Tensor, nn

from igd_ray.data import LabeledImages
from igd_ray.errors import InputError
from igd_ray.models.anatomy.layers import find_layer
from igd_ray.properties import Found, Property, found_logits, properties_of
from igd_ray.threat import predicted_classes

# Images that everything but accuracy is looked at on.
FEW = 8

# Images that accuracy is measured on at a time.
BATCH = 64

# Logits of one image may differ so much between two calls, and between batches.
SAME, BATCH_DIFFERENCE = 1e-4, 1e-3


def look_at_model(model: nn.Module, test: LabeledImages, *, layer: str) -> list[Property]:
    """Look at a base model that takes the images of `test`, and stop at the first error.

    Args:
        model: in eval mode.
        test: the images that would be evaluated.
        layer: whose neurons masks would be made of.
    """
    look = _Look(model, test, layer)
    return properties_of(
        (
            ("logits", "attacks follow losses of float logits, so no softmax belongs into the model", look.logits),
            (
                "accuracy",
                "images that the model gets wrong are never robust; normalisation belongs into it",
                look.right,
            ),
            (
                "randomness",
                "AutoAttack standard and the gain of a defense take the model for deterministic",
                look.random,
            ),
            ("batch", "an image's answer does not depend on the images beside it", look.batch),
            ("gradient", "gradient attacks see the model", look.gradient),
            ("layer", "the neurons that rankings score and masks keep", look.neurons),
        )
    )


class _Look:
    def __init__(self, model: nn.Module, test: LabeledImages, layer: str) -> None:
        self._model, self._test, self._layer = model, test, layer
        self._images, self._labels = next(iter(test.select(slice(0, FEW)).batches(FEW)))

    @torch.no_grad()
    def ask(self, images: Tensor) -> Tensor:
        return self._model(images)  # type: ignore[no-any-return]

    def logits(self) -> Found:
        return found_logits(self.ask(self._images))

    def right(self) -> Found:
        right = sum(
            int((predicted_classes(self._model, images) == labels).sum())
            for images, labels in self._test.batches(BATCH)
        )
        classes, n = len(self._test.class_names), len(self._test)
        found = f"{right / n:.4g} on {n} images"
        if right / n <= 2 / classes:
            return "warning", f"{found}, little more than chance: check weights, normalisation and the order of classes"
        return "ok", found

    def random(self) -> Found:
        difference = float((self.ask(self._images) - self.ask(self._images)).abs().max())
        if difference > SAME:
            return "warning", f"random: two calls differ by {difference:.2g} in a logit"
        return "ok", "none"

    def batch(self) -> Found:
        alone = torch.cat([self.ask(image[None]) for image in self._images])
        difference = float((self.ask(self._images) - alone).abs().max())
        result: Found = "ok", f"logits of an image alone differ by {difference:.2g}"
        return result if difference <= BATCH_DIFFERENCE else ("warning", result[1])

    def gradient(self) -> Found:
        points = self._images.clone().requires_grad_()
        loss = nn.functional.cross_entropy(self._model(points), self._labels, reduction="sum")
        if not loss.requires_grad:
            return "warning", "none: something in it stops gradients; only query attacks say something of it"
        (gradient,) = torch.autograd.grad(loss, [points])
        useful = torch.isfinite(gradient).flatten(1).all(dim=1) & (gradient != 0).flatten(1).any(dim=1)
        blind = int((~useful).sum())
        if blind:
            return "warning", f"all zero or not finite on {blind} of {len(points)} images"
        return "ok", f"finite and not zero on {len(points)} images"

    def neurons(self) -> Found:
        try:
            found = find_layer(self._model, self._layer, self._images[:1])
        except InputError as error:
            return "warning", f"none, so no masks and rankings: {error}"
        return "ok", f"{found.name}: {found.width} neurons"
