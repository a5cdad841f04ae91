"""Ray job: `ray job submit -- python jobs/rank.py …` takes the flags of `igd rank`."""

import sys

from igd_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["rank", *sys.argv[1:]]))
