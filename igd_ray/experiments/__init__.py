"""The paper's tables and figures: a YAML file for each says how to make it again; `published.csv` has its numbers."""

import csv
import re
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from igd_ray.errors import InputError, did_you_mean
from igd_ray.values.plain_yaml import plain_value


@dataclass(frozen=True)
class Experiment:
    """How a table or figure of the paper is made.

    Attributes:
        name, title: "table1", and what it shows.
        verb: "evaluate" or "analyze".
        query: the shipped query that prints its rows.
        row: the columns of the query that tell its rows apart.
        columns: the columns with its numbers.
        settings: of every part.
        parts: by the paper's name of the base model, the settings of one run; under "small", those at small scale.
        small: settings that replace others at small scale.
        differences: what differs from the paper.
    """

    name: str
    title: str
    verb: str
    query: str
    row: tuple[str, ...]
    columns: tuple[str, ...]
    settings: dict[str, Any]
    parts: dict[str, dict[str, Any]]
    small: dict[str, Any]
    differences: tuple[str, ...]

    def runs(self, *, small: bool) -> dict[str, dict[str, Any]]:
        """Return the settings of each run, by its part.

        At small scale the model, its data and eps are not the paper's but those at hand, so that parts which differ in
        the model alone are one run, which stands beside the first of them.
        """
        found: dict[str, dict[str, Any]] = {}
        for part, own in self.parts.items():
            values = {**self.settings, **own}
            smaller = values.pop("small", {})
            if small:
                at_hand = {"model", "data", "split", "eps"}
                values = {name: value for name, value in values.items() if name not in at_hand}
                values = {**values, **self.small, **smaller}
                if values in found.values():
                    continue
            found[part] = values
        return found


def experiment_names() -> list[str]:
    """Return the names of all experiments, tables first, in the paper's order."""
    names = [file.name.removesuffix(".yaml") for file in files(__name__).iterdir() if file.name.endswith(".yaml")]
    return sorted(names, key=lambda name: (name.startswith("fig"), int(re.sub(r"\D", "", name))))


def load_experiment(name: str) -> Experiment:
    """Return the experiment `name`.

    Raises:
        InputError: if there is none.
    """
    names = experiment_names()
    if name not in names:
        raise InputError(
            f"no experiment {name!r}; there are {', '.join(names)} (figures 1, 3 and 4 of the paper show its method)"
            f"{did_you_mean(name, names)}"
        )
    values = plain_value((files(__name__) / f"{name}.yaml").read_text(encoding="utf-8"))
    assert isinstance(values, dict)
    for listed in ("row", "columns", "differences"):
        values[listed] = tuple(values[listed])
    return Experiment(name=name, **values)


def published_numbers(name: str) -> dict[tuple[str, str, str], float]:
    """Return the paper's numbers of a table: by part, row and column."""
    text = (files(__name__) / "published.csv").read_text(encoding="utf-8")
    found = {}
    for line in csv.DictReader(text.splitlines()):
        if line["table"] == name:
            part, _, row = line["row"].partition("/")
            found[part, row, line["column"]] = float(line["value"])
    return found


def without_k(row: str) -> str:
    """Return the name of a row without the number of neurons that its defense keeps, which differs at small scale.

    >>> without_k("loir-50"), without_k("random-drop-8 8/255"), without_k("two-pass")
    ('loir', 'random-drop 8/255', 'two-pass')
    """
    return re.sub(r"-\d+(?= |$)", "", row)
