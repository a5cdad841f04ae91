"""How tests run an attack."""

from torch import Generator, Tensor, nn

from igd_ray.attacks import Attack, AttackResult
from igd_ray.threat import ThreatModel


def run_attack(
    attack: Attack, target: nn.Module, images: Tensor, labels: Tensor, threat: ThreatModel, seed: int = 0
) -> AttackResult:
    """Attack `target` with random numbers from `seed`."""
    return attack(target, images, labels, threat=threat, generator=Generator().manual_seed(seed))
