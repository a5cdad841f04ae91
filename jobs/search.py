"""Ray job: `ray job submit -- python jobs/search.py …` takes the flags of `igd search`."""

import sys

from igd_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["search", *sys.argv[1:]]))
