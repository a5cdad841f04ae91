"""Settings of `igd analyze`."""

import math
from collections.abc import Callable, Mapping

from pydantic import Field

from igd_ray.config.base import DRAWS, MOST_TRIED, SIGMA, TAU, Texts, at_commas, require_range
from igd_ray.config.of_verbs import EvaluateSettings
from igd_ray.errors import InputError, did_you_mean
from igd_ray.threat import parse_fraction

# What may vary, and how its places are read. A place that is not a number is the path of a layer.
VARIED: Mapping[str, Callable[[str], float | int | str]] = {
    "k": int,
    "layer": str,
    "sigma": parse_fraction,
    "draws": int,
    "tau": float,
    "probe-share": float,
    "steps": int,
    "eps": parse_fraction,
}

# A curve has one setting, a heat map two.
MOST_VARIED = 2


class AnalyzeSettings(EvaluateSettings):
    """`igd analyze`: what stands behind the accuracies, on the same defenses and attacks.

    Attributes:
        analysis: its name.
        vary: NAME=VALUE,… for each setting that varies, one or two.
        grid: points of a loss surface along each of its two directions, an odd number.
        repetitions: how often times are taken, in turn with the base model's forward pass.
    """

    analysis: str
    vary: Texts = ()
    grid: int = Field(default=9, ge=3, le=101)
    repetitions: int = Field(default=5, ge=1, le=1000)

    @property
    def varied(self) -> dict[str, dict[str, float | int | str]]:
        """The places of each setting that varies, each under the text that it was given as.

        Raises:
            InputError: naming what cannot be varied, or the place that is none.
        """
        varied: dict[str, dict[str, float | int | str]] = {}
        for entry in self.vary:
            name, equals, texts = entry.partition("=")
            if not equals or name not in VARIED:
                raise InputError(
                    f"--vary takes NAME=VALUE,… with one of {', '.join(VARIED)}, not {entry!r}"
                    f"{did_you_mean(name, VARIED)}"
                )
            if name in varied:
                raise InputError(f"--vary {name} is given twice; put all of its values into one, with commas")
            places = at_commas(texts)
            assert isinstance(places, list)
            if not 1 <= len(places) <= MOST_TRIED:
                raise InputError(f"--vary {name} takes 1 to {MOST_TRIED} values with commas, not {texts!r}")
            varied[name] = {text: _place(name, text) for text in places}
        if len(varied) > MOST_VARIED:
            raise InputError(f"--vary takes one setting for a curve, or two for a heat map, not {len(varied)}")
        return varied

    def check(self) -> None:
        """Check what varies as well."""
        super().check()
        _ = self.varied
        for name in ("until", "points", "from_search"):
            if name in self.model_fields_set:
                raise InputError(f"{name} is for `igd evaluate`; an analysis covers all of its images, leave it out")
        if self.grid % 2 == 0:
            raise InputError(f"grid must be odd, so that the image itself is in the middle, not {self.grid}")


def _place(name: str, text: str) -> float | int | str:
    try:
        value = VARIED[name](text)
    except ValueError:
        raise InputError(f"--vary {name}: {text!r} is not a number that {name} can be") from None
    limits = {"sigma": SIGMA, "tau": TAU, "draws": DRAWS, "k": (1, math.inf), "steps": (1, math.inf)}
    if name in limits and isinstance(value, int | float):
        require_range(name, value, limits[name])
    if name == "probe-share" and not 0 < float(value) <= 1:
        raise InputError(f"--vary probe-share: a share of the probe images lies in (0, 1], not {text}")
    if " " in text or "=" in text:
        raise InputError(f"--vary {name}: a value has neither spaces nor '=', unlike {text!r}")
    return value
