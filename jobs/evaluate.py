"""Ray job: `ray job submit -- python jobs/evaluate.py …` takes the flags of `igd evaluate`."""

import sys

from igd_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
