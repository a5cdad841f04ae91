"""What `igd bench` measures beside a yardstick; what it measures of the cluster is in `igd_ray/cluster/bench.py`."""
