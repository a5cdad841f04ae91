"""Ray job: `ray job submit -- python jobs/report.py …` takes the flags of `igd report`."""

import sys

from igd_ray.cli import main

if __name__ == "__main__":
    sys.exit(main(["report", *sys.argv[1:]]))
