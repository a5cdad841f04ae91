"""The catalog of results: Parquet files that are written once, and SQL over them."""

from igd_ray.catalog.query import ask, connect, run_query
from igd_ray.catalog.schemas import SCHEMA_VERSION, SCHEMAS
from igd_ray.catalog.sources import named_queries, named_query
from igd_ray.catalog.store import Catalog

__all__ = ["SCHEMAS", "SCHEMA_VERSION", "Catalog", "ask", "connect", "named_queries", "named_query", "run_query"]
