"""Random corners of the ball."""

from dataclasses import dataclass

import torch

from igd_ray.attacks import Attack, moved_points


@dataclass(frozen=True)
class Corners(Attack):
    """Plus or minus epsilon at random: of that no gradient tells."""

    queries: int = 4

    def most_passes(self, num_classes):
        return 2 + self.queries, 0

    def search(self, target, images, labels, threat, seed):
        before = target.queries, target.forwards, target.backwards
        generator = torch.Generator().manual_seed(seed)
        points, right = images.clone(), target(images).argmax(dim=1) == labels
        for _ in range(self.queries):
            signs = torch.randint(2, images[right].shape, generator=generator) * 2 - 1
            points[right] = (images[right] + threat.epsilon * signs).clamp(0, 1)
            right = right & (target(points).argmax(dim=1) == labels)
        return moved_points(points, "corners", target, before, images)
