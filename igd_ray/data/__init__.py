"""Labelled images and where they come from."""

from igd_ray.data.images import LabeledImages, check_images
from igd_ray.data.loading import load_images
from igd_ray.data.splits import probe_and_search, require_disjoint

__all__ = ["LabeledImages", "check_images", "load_images", "probe_and_search", "require_disjoint"]
