"""All methods of ranking by name; each registers itself where it is defined."""

from collections.abc import Callable
from typing import TypeVar

from igd_ray.errors import InputError, did_you_mean
from igd_ray.models.sources import code_digest
from igd_ray.ranking.base import Ranking

# Which CLIP model is meant: settings of every ranking that reads one.
CLIP_SETTINGS = frozenset({"clip", "clip_weights"})

R = TypeVar("R", bound=Ranking)

RANKINGS: dict[str, type[Ranking]] = {}


def register(method: str) -> Callable[[type[R]], type[R]]:
    """Register the decorated class of rankings under `method`, for `--method` and for masks called `method`-K.

    Raises:
        ValueError: if another class has that name.
    """

    def add(ranking: type[R]) -> type[R]:
        if (other := RANKINGS.setdefault(method, ranking)) is not ranking:
            raise ValueError(f"{method!r} is registered as {other.__qualname__}; choose another name")
        return ranking

    return add


def ranking_class(method: str) -> type[Ranking]:
    """Return the class of rankings by `method`.

    Raises:
        InputError: if there is no such method, naming close matches.
    """
    if method not in RANKINGS:
        raise InputError(f"method must be one of {', '.join(RANKINGS)}, not {method!r}{did_you_mean(method, RANKINGS)}")
    return RANKINGS[method]


def ranking_options(method: str) -> frozenset[str]:
    """Return the names of a run's settings that rankings by `method` depend on; one in a file has settings of its own.

    Raises:
        InputError: if there is no such method, naming close matches.
    """
    ranking = ranking_class(method)
    own = frozenset(ranking.setting_names() if code_digest(ranking) is None else ())
    return own | CLIP_SETTINGS if "clip" in ranking.reads else own
