"""What an attack did to each image of a shard, and what it cost, as rows of the table `outcomes`."""

import json
from collections.abc import Sequence

from igd_ray.units.base import Rows, host_name
from igd_ray.units.judged import Judgement, judged_facts
from igd_ray.units.replica import Context


def outcome_rows(
    judgement: Judgement, context: Context, *, seconds: float, stages: Sequence[str | None] | None = None
) -> Rows:
    """Return one row an image for the table `outcomes`.

    Args:
        judgement: the verdicts, and what they cost.
        context: where they were computed.
        seconds: for the whole shard.
        stages: for each image the stage of the attack that broke it; by default none is known.
    """
    unit, tally = judgement.unit, judgement.tally
    defense = unit.defense
    shared = {
        **judged_facts(unit),
        "model": context.setup.source(defense.model_id).label,
        "dataset": context.setup.images[unit.shard.images].dataset,
        "defense": defense.label,
        "k": defense.k,
        "sigma": defense.sigma,
        "tau": defense.tau,
        "draws": defense.draws,
        "layer": defense.layer.name if defense.layer else None,
        "defense_arguments": json.dumps(dict(defense.arguments), sort_keys=True),
        "ranking_id": defense.ranking_id,
        "attack": unit.attack.label,
        "seed": unit.attack_seed_used,
        "host": host_name(),
        "attempt": 1,
        "seconds": seconds / len(unit.shard.ids),
    }
    return [
        {
            **shared,
            **verdict,
            "stage": stages[index] if stages is not None and verdict["status"] == "broken" else None,
            "queries": int(tally.queries[index]),
            "forwards": int(tally.forwards[index]),
            "backwards": int(tally.backwards[index]),
        }
        for index, verdict in enumerate(judgement.verdicts())
    ]
