"""Ray's Jobs API: a verb runs on the cluster's head, with this machine's code and files, and its log comes here."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from igd_ray.errors import IgdError, first_line

# How the Jobs server says that it wants another token, or one at all.
REFUSALS = ("401", "403", "Unauthorized", "Unauthenticated", "Forbidden")


def run_job(address: str, folder: Path, entrypoint: Sequence[str], *, name: str) -> int:
    """Upload `folder`, run `entrypoint` in it on the cluster at `address`, print its log; return its exit code.

    Args:
        address: of the dashboard, such as http://127.0.0.1:8265.
        folder: the job's working directory.
        entrypoint: program and arguments; quoted for the shell that starts it.
        name: the submission's id.

    Raises:
        IgdError: if no cluster answers, the token is refused, or the job cannot be started.
    """
    import shlex

    from ray.exceptions import AuthenticationError, RayError
    from ray.job_submission import JobStatus, JobSubmissionClient

    try:
        client = JobSubmissionClient(address)
        client.submit_job(
            entrypoint=shlex.join(entrypoint), submission_id=name, runtime_env={"working_dir": str(folder)}
        )
    except ConnectionError as error:
        raise IgdError(
            f"no Ray cluster takes jobs at {address} ({first_line(error)}); open the tunnel to its dashboard, and set "
            "RAY_API_SERVER_ADDRESS"
        ) from error
    except (RuntimeError, OSError, ValueError, RayError) as error:
        if isinstance(error, AuthenticationError) or any(word in str(error) for word in REFUSALS):
            raise IgdError(
                f"the cluster at {address} refuses this token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the "
                "file with the cluster's"
            ) from error
        raise IgdError(f"the cluster at {address} did not take the job: {first_line(error)}") from error
    print(f"job {name}; stop it with: ray job stop {name}", file=sys.stderr, flush=True)
    asyncio.run(_follow(client, name))
    details = client.get_job_info(name)
    if details.status == JobStatus.SUCCEEDED:
        return 0
    code = details.driver_exit_code
    if not code:
        raise IgdError(f"job {name} ended as {details.status}: {first_line(RuntimeError(details.message or ''))}")
    return int(code)


async def _follow(client: object, name: str) -> None:
    async for text in client.tail_job_logs(name):  # type: ignore[attr-defined]
        print(text, end="", flush=True)
