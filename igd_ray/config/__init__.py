"""Typed settings of every verb, from the command line or a YAML file; what cannot be used fails before work starts."""

from igd_ray.config.analysis import AnalyzeSettings
from igd_ray.config.base import WorkspaceSettings, load_settings
from igd_ray.config.of_verbs import EvaluateSettings, ImportSettings, RankSettings, SearchSettings, TrainSettings

__all__ = [
    "SETTINGS",
    "AnalyzeSettings",
    "EvaluateSettings",
    "ImportSettings",
    "RankSettings",
    "SearchSettings",
    "TrainSettings",
    "WorkspaceSettings",
    "load_settings",
]

# Of each verb that takes a settings file.
SETTINGS: dict[str, type[WorkspaceSettings]] = {
    "rank": RankSettings,
    "train": TrainSettings,
    "search": SearchSettings,
    "evaluate": EvaluateSettings,
    "analyze": AnalyzeSettings,
}
