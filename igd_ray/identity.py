"""What a result depends on, as a key; and every seed, derived from a key.

A unit's key is the hash of everything its result depends on, so equal keys mean equal results, on any
machine, whatever ran before. No seed comes from a clock or a global generator.
"""

import hashlib
import json
from collections.abc import Mapping

from igd_ray.errors import InputError

KEY_LENGTH = 32

# A change of what a stage computes changes its version here, and so every key of that stage:
# results of the old code are then kept, but never mistaken for the new code's.
STAGE_VERSIONS: Mapping[str, int] = {
    "ranking": 1,
    "embedding": 1,
    "sodef": 1,
    "search": 1,
    "attack": 1,
    "transfer": 1,
    "inspection": 1,
    "gradient-check": 1,
    "noise": 1,
    "review": 1,
    "run": 1,
}


def content_hash(value: object) -> str:
    """Return the hash, 32 hexadecimal digits, of `value` built of dict, list, tuple, str, int, float, bool, None.

    Dictionaries hash alike whatever their order; floats by their exact value.

    Raises:
        TypeError: for any other type, so that nothing is hashed by its address.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def unit_key(stage: str, **depends_on: object) -> str:
    """Return the key of a unit of `stage` whose result depends on `depends_on` and on that stage's code version.

    Raises:
        InputError: if `stage` has no version in `STAGE_VERSIONS`.
    """
    if stage not in STAGE_VERSIONS:
        raise InputError(f"stage must be one of {', '.join(STAGE_VERSIONS)}, not {stage!r}")
    return content_hash({"stage": stage, "version": STAGE_VERSIONS[stage], **depends_on})


def derive_seed(key: str, purpose: str) -> int:
    """Return the seed in [0, 2**31) that the unit `key` uses for `purpose` ("attack", "noise", "judge", …)."""
    return int.from_bytes(hashlib.sha256(f"{key}:{purpose}".encode()).digest()[:4], "big") >> 1
