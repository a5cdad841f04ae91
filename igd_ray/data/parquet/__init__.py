"""Images in Parquet files as Hugging Face stores them, on this machine or on its hub."""

from igd_ray.data.parquet.files import load_parquet
from igd_ray.data.parquet.hub import load_hub

__all__ = ["load_hub", "load_parquet"]
