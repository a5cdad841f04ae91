#!/usr/bin/env bash
# Slurm job: `sbatch --nodes=4 jobs/slurm.sh evaluate --catalog /shared/results …` runs a verb of `igd` on all its nodes.
# The environment that has igd must be active. Submit the same line again to go on: finished units are kept.
#SBATCH --job-name=igd
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
set -euo pipefail

if [ $# -eq 0 ]; then
  echo "slurm.sh: expected a verb with its flags, such as: evaluate --catalog /shared/results" >&2
  exit 2
fi

# Nobody else on the cluster may give Ray work: every node and the driver show this token.
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}"
if [ ! -s "$RAY_AUTH_TOKEN_PATH" ]; then
  mkdir -p "$(dirname "$RAY_AUTH_TOKEN_PATH")"
  (umask 077 && python -c 'import secrets; print(secrets.token_hex(32))' > "$RAY_AUTH_TOKEN_PATH")
fi

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]}
others=$((${#nodes[@]} - 1))
address=$(srun --nodes=1 --ntasks=1 --overlap --nodelist="$head" hostname --ip-address | awk '{print $1}')
# Two jobs of this user on one node must not meet.
port=$((20000 + SLURM_JOB_ID % 10000))

started=()
trap 'kill "${started[@]}" 2> /dev/null || true; wait || true' EXIT
srun --nodes=1 --ntasks=1 --overlap --nodelist="$head" ray start --head --block --node-ip-address="$address" \
  --port="$port" --include-dashboard=false --disable-usage-stats &
started+=($!)
until (exec 3<> "/dev/tcp/$address/$port") 2> /dev/null; do
  kill -0 "${started[0]}" 2> /dev/null || { echo "slurm.sh: Ray's head did not start on $head" >&2; exit 1; }
  sleep 1
done
if [ "$others" -gt 0 ]; then
  srun --nodes="$others" --ntasks="$others" --overlap --exclude="$head" ray start --block \
    --address="$address:$port" --disable-usage-stats &
  started+=($!)
fi

python - "$address:$port" "${#nodes[@]}" << 'WAIT'
import sys
import time

import ray

ray.init(address=sys.argv[1], log_to_driver=False)
deadline = time.monotonic() + 300
while sum(node["Alive"] for node in ray.nodes()) < int(sys.argv[2]):
    if time.monotonic() > deadline:
        sys.exit("slurm.sh: not all nodes joined within five minutes")
    time.sleep(1)
WAIT

RAY_ADDRESS="$address:$port" python -m igd_ray.cli "$@"
