"""The rows that units of analyses commit."""

from igd_ray.units.replica import Context

TABLE = "measurements"


def measurement(
    key: str, analysis: str, context: Context, *, quantity: str, value: float | None, **columns: object
) -> dict[str, object]:
    """Return a row of `measurements`; columns that are not named are NULL.

    Args:
        key: the unit's.
        analysis: its name.
        context: where it was measured.
        quantity: what was measured.
        value: how much; None where it is not defined.
        columns: the other columns, by name.
    """
    known: dict[str, object] = dict.fromkeys(("defense", "attack", "image_id", "label", "broken", "x", "y"))
    assert not columns.keys() - known.keys(), columns
    return {
        **known,
        "unit_key": key,
        "analysis": analysis,
        "model": context.setup.model.label,
        "model_id": context.setup.model.fingerprint,
        "dataset": next(iter(context.setup.images.values())).dataset,
        "quantity": quantity,
        "value": value,
        **columns,
    }
