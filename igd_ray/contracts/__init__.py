"""What models, attacks and rankings owe to an evaluation, looked at on a few images before any work.

Defenses in files are looked at wherever they are planned: `igd_ray.defenses.contract`.
"""

from igd_ray.contracts.attack import look_at_attack
from igd_ray.contracts.model import look_at_model
from igd_ray.contracts.ranking import look_at_ranking

__all__ = ["look_at_attack", "look_at_model", "look_at_ranking"]
