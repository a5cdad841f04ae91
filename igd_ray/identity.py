"""Keys of units, and seeds that derive from keys.

A unit's key is the hash of everything that the unit's result depends on. So equal keys mean equal results, on any
machine and whatever ran before. No seed comes from a clock or from a global generator.
"""

import hashlib
import json
from collections.abc import Mapping

from igd_ray.errors import InputError

KEY_LENGTH = 32

# Whoever changes what a stage computes raises its version here, which changes every key of that stage. Results of the
# old code then stay in the catalog and are never taken for results of the new code.
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
    "analysis": 1,
    "run": 1,
}


def require_plain(settings: Mapping[str, object]) -> None:
    """Check that `settings`, of code of the user's, can be part of a key.

    Raises:
        InputError: if one of them is of another type than `content_hash` takes, or NaN or infinite.

    >>> require_plain({"power": 2, "names": ["a", "b"]})
    """
    try:
        content_hash(dict(settings))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"its fields are its settings, and must be numbers, texts, true, false, None or lists of these: {error}"
        ) from None


def content_hash(value: object) -> str:
    """Return the hash, 32 hexadecimal digits, of `value` built of dict, list, tuple, str, int, float, bool, None.

    The order of a dictionary does not matter. A float is hashed by its exact value.

    Raises:
        TypeError: for any other type, so that no object is hashed by its address in memory.
        ValueError: for a float that is NaN or infinite.

    >>> content_hash({"k": 8, "tau": 0.01})
    '06e7be42466fe23828044336ed19f894'
    >>> content_hash({"k": 8, "tau": 0.01}) == content_hash({"tau": 0.01, "k": 8})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]


def unit_key(stage: str, **depends_on: object) -> str:
    """Return the key of a unit of `stage` whose result depends on `depends_on` and on the code version of `stage`.

    Raises:
        InputError: if `stage` has no version in `STAGE_VERSIONS`.

    >>> unit_key("noise", seed=0) == unit_key("noise", seed=0)
    True
    >>> unit_key("noise", seed=0) == unit_key("noise", seed=1)
    False
    """
    if stage not in STAGE_VERSIONS:
        raise InputError(f"stage must be one of {', '.join(STAGE_VERSIONS)}, not {stage!r}")
    return content_hash({"stage": stage, "version": STAGE_VERSIONS[stage], **depends_on})


def derive_seed(key: str, purpose: str) -> int:
    """Return the seed, in [0, 2**31), that the unit `key` uses for `purpose` ("attack", "noise", "judge", …).

    >>> derive_seed("0123", "attack"), derive_seed("0123", "judge")
    (820479305, 1395371408)
    """
    return int.from_bytes(hashlib.sha256(f"{key}:{purpose}".encode()).digest()[:4], "big") >> 1
