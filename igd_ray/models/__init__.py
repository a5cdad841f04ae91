"""Base models: loading by spec, finding and scaling layers, cutting into prefix and suffix."""

from igd_ray.models.anatomy.cutting import SplitModel
from igd_ray.models.anatomy.layers import PENULTIMATE, Layer, find_layer, maskable_layers
from igd_ray.models.fingerprint import model_fingerprint
from igd_ray.models.loading import check_model, load_model
from igd_ray.models.sources import model_sources

__all__ = [
    "PENULTIMATE",
    "Layer",
    "SplitModel",
    "check_model",
    "find_layer",
    "load_model",
    "maskable_layers",
    "model_fingerprint",
    "model_sources",
]
