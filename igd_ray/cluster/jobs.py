"""Jobs on a Ray cluster: runs a verb on the head with the code and files of this machine, and prints its log here."""

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from igd_ray.errors import IgdError, first_line

# After so many minutes without an answer of the dashboard, the job is no longer followed.
MINUTES_WITHOUT_ANSWER = 5

# Pause between two requests for the job's status.
SECONDS_BETWEEN_QUESTIONS = 2.0

# After so many seconds without a line of the log, the log is requested again.
SECONDS_OF_SILENCE = 60.0


def run_job(address: str, folder: Path, entrypoint: Sequence[str], *, name: str) -> int:
    """Upload `folder`, run `entrypoint` in it on the cluster at `address`, print its log; return its exit code.

    Args:
        address: the dashboard, such as http://127.0.0.1:8265.
        folder: the job's working directory.
        entrypoint: program and arguments; quoted for the shell that starts it.
        name: the id of the job.

    Raises:
        IgdError: if no cluster answers, or it stops answering for minutes; it refuses the token; or the job does not
            start, or ends without an exit code.
        KeyboardInterrupt: if the user stops following the job, which keeps running.
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
    except AuthenticationError as error:
        raise _refusal(address) from error
    except (RuntimeError, OSError, ValueError, RayError) as error:
        raise IgdError(f"the cluster at {address} did not take the job: {first_line(error)}") from error
    stop = f"ray job stop --address {address} {name}"
    print(f"job {name}; stop it with: {stop}", file=sys.stderr, flush=True)
    try:
        details = _follow(client, address, name)
    except KeyboardInterrupt as interrupt:
        raise type(interrupt)(f"no longer following job {name}, which runs on; stop it with: {stop}") from None
    if details.status == JobStatus.SUCCEEDED:
        return 0
    code = details.driver_exit_code
    if not code:
        raise IgdError(f"job {name} ended as {details.status}: {first_line(RuntimeError(details.message or ''))}")
    return int(code)


def _refusal(address: str) -> IgdError:
    return IgdError(
        f"the cluster at {address} wants its token; set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH to the file that "
        "holds it"
    )


def _follow(client: Any, address: str, name: str) -> Any:
    """Print the job's log until the job ends, with a new connection whenever one breaks; return its details.

    Raises:
        IgdError: if the dashboard stays away, refuses the token, or no longer knows the job.
    """
    printed = 0
    while True:
        details = _details(client, address, name)
        if details.status.is_terminal():
            print(_whole_log(client, name)[printed:], end="", flush=True)
            return details
        printed = asyncio.run(_print_log(client, name, printed))
        time.sleep(SECONDS_BETWEEN_QUESTIONS)


def _details(client: Any, address: str, name: str) -> Any:
    """Return the job's details; ask until the dashboard answers, or for `MINUTES_WITHOUT_ANSWER`."""
    from ray.exceptions import AuthenticationError

    start = time.monotonic()
    while True:
        try:
            return client.get_job_info(name)
        except AuthenticationError as error:
            raise _refusal(address) from error
        except (RuntimeError, OSError) as error:
            if "status code 404" in str(error):
                raise IgdError(
                    f"the cluster at {address} no longer knows job {name}, so its head was started anew; every "
                    "finished unit is kept, submit it again to go on"
                ) from error
            if time.monotonic() - start >= 60 * MINUTES_WITHOUT_ANSWER:
                raise IgdError(
                    f"{address} has not answered for {MINUTES_WITHOUT_ANSWER} minutes ({first_line(error)}); job "
                    f"{name} runs on without this connection: open the tunnel again, and follow it with: ray job logs "
                    f"--address {address} --follow {name}"
                ) from error
        time.sleep(SECONDS_BETWEEN_QUESTIONS)


async def _print_log(client: Any, name: str, printed: int) -> int:
    """Print the log beyond its first `printed` characters until the connection ends; return how many are printed."""
    position = 0
    async for text in _log(client, name):
        print(text[max(0, printed - position) :], end="", flush=True)
        position += len(text)
    return max(position, printed)


async def _log(client: Any, name: str) -> AsyncIterator[str]:
    """Yield the log from its beginning as it grows, until the connection ends or breaks."""
    import aiohttp

    stream = client.tail_job_logs(name)
    try:
        # A connection can break without an error: after some silence, ask for the job's status, and for the log anew.
        while True:
            yield await asyncio.wait_for(anext(stream), SECONDS_OF_SILENCE)
    except (StopAsyncIteration, TimeoutError, RuntimeError, OSError, aiohttp.ClientError):
        return


def _whole_log(client: Any, name: str) -> str:
    """Return the log of a job that has ended; "" if it was lost with its node."""
    try:
        log: str = client.get_job_logs(name)
    except (RuntimeError, OSError):
        return ""
    return log
