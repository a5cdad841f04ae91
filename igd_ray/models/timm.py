"""Models of the timm library, with their normalisation."""

from pathlib import Path
from typing import Any

from torch import nn

from igd_ray.errors import InputError, did_you_mean, first_line
from igd_ray.models.checkpoints import load_weights
from igd_ray.models.normalization import Normalize


def load_timm(name: str, *, weights: str | Path | None = None, **arguments: Any) -> nn.Module:
    """Return timm's model `name` behind its own normalisation, with `weights` or timm's pretrained ones.

    Raises:
        InputError: if timm has no such model, an argument does not fit, or the weights cannot be had.
    """
    # Imported here because timm takes a second to import, and few models come from it.
    import timm

    if not timm.is_model(name):
        raise InputError(f"timm has no model {name!r}{did_you_mean(name, timm.list_models())}")
    try:
        model = timm.create_model(name, pretrained=weights is None, **arguments)
    except (TypeError, AssertionError) as error:
        raise InputError(f"timm:{name} does not take these arguments: {error}") from None
    except (RuntimeError, OSError, ValueError) as error:
        raise InputError(
            f"timm:{name}: its weights could not be downloaded ({first_line(error)}); pass --weights FILE"
        ) from None
    if weights is not None:
        load_weights(model, weights)
    return Normalize(model, model.pretrained_cfg["mean"], model.pretrained_cfg["std"])
