"""Makes the pipeline's `runs` and the catalog's `loopback_store` importable, and says what these tests start."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "pipeline"))
sys.path.insert(0, str(Path(__file__).parents[1] / "catalog"))
sys.path.insert(0, str(Path(__file__).parent))
