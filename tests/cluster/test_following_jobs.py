"""A submitted job is followed to its end, whatever becomes of the connection to its cluster."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus

from igd_ray.cluster import jobs
from igd_ray.errors import IgdError

ADDRESS = "http://127.0.0.1:8401"
LOG = "one\ntwo\nthree\nfour\n"
BROKEN = RuntimeError("WebSocket connection closed unexpectedly with close code 1006")
NO_TUNNEL = ConnectionRefusedError("connection refused")


@dataclass
class Details:
    """What the cluster says about a job."""

    status: JobStatus
    driver_exit_code: int | None = None
    message: str = ""


RUNNING, SUCCEEDED = Details(JobStatus.RUNNING), Details(JobStatus.SUCCEEDED, 0)


@dataclass
class Cluster:
    """A cluster as its client sees it.

    Attributes:
        streams: how far into the log each connection gets, and what breaks it, if anything does.
        answers: to each question about the job; the last one from then on.
        log: all of it, as it can be read once the job has ended.
        refusal: raised when a job is submitted.
    """

    streams: list[tuple[int, Exception | None]]
    answers: list[Details | Exception]
    log: str = LOG
    refusal: Exception | None = None
    seconds: float = 0.0
    submitted: list[str] = field(default_factory=list)

    def __call__(self, address: str) -> "Cluster":
        assert address == ADDRESS
        return self

    def submit_job(self, *, entrypoint: str, submission_id: str, runtime_env: dict[str, str]) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.submitted.append(entrypoint)

    async def tail_job_logs(self, name: str) -> AsyncIterator[str]:
        length, failure = self.streams.pop(0) if self.streams else (0, NO_TUNNEL)
        for start in range(0, length, 3):  # chunks end where they like
            yield LOG[start : min(start + 3, length)]
        if failure is not None:
            raise failure

    def get_job_info(self, name: str) -> Details:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def get_job_logs(self, name: str) -> str:
        return self.log

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


Run = Callable[[Cluster], int]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs a job on a cluster whose clock nobody waits for."""

    def run(cluster: Cluster) -> int:
        monkeypatch.setattr("ray.job_submission.JobSubmissionClient", cluster)
        monkeypatch.setattr(jobs, "time", cluster)
        return jobs.run_job(ADDRESS, tmp_path, ["igd", "rank"], name="igd-rank-1")

    return run


@pytest.mark.parametrize(
    ("streams", "answers"),
    [
        ([(len(LOG), None)], [RUNNING, SUCCEEDED]),
        ([(6, BROKEN), (len(LOG), None)], [RUNNING, RUNNING, SUCCEEDED]),
        ([(6, None), (len(LOG), None)], [RUNNING, RUNNING, SUCCEEDED]),
        ([(10, BROKEN), (0, NO_TUNNEL), (4, BROKEN), (len(LOG), None)], [RUNNING] * 4 + [SUCCEEDED]),
        ([(6, BROKEN)], [RUNNING, NO_TUNNEL, NO_TUNNEL, SUCCEEDED]),
        ([(0, BROKEN)], [SUCCEEDED]),
    ],
    ids=["whole", "broken", "closed early", "broken often", "ended meanwhile", "ended at once"],
)
def test_every_line_is_printed_once(
    streams: list[tuple[int, Exception | None]],
    answers: list[Details | Exception],
    run: Run,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(Cluster(streams, answers)) == 0
    assert capsys.readouterr().out == LOG


def test_a_job_that_fails_after_a_broken_connection_gives_its_exit_code(run: Run) -> None:
    assert run(Cluster([(6, BROKEN)], [RUNNING, Details(JobStatus.FAILED, 3)])) == 3


def test_who_stops_following_is_told_that_the_job_runs_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(cluster: Cluster, seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Cluster, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt, match="job igd-rank-1, which runs on; stop it with: ray job stop"):
        run(Cluster([(6, BROKEN)], [RUNNING]))


def test_a_log_that_is_gone_does_not_hide_how_the_job_ended(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(cluster: Cluster, name: str) -> str:
        raise RuntimeError("Request failed with status code 500: the node died.")

    monkeypatch.setattr(Cluster, "get_job_logs", gone)
    with pytest.raises(IgdError, match="job igd-rank-1 ended as FAILED: its node died"):
        run(Cluster([(6, BROKEN)], [RUNNING, Details(JobStatus.FAILED, None, "its node died")]))


def test_a_dashboard_that_stays_away_is_given_up_and_the_job_is_not(run: Run) -> None:
    cluster = Cluster([(6, BROKEN)], [RUNNING, NO_TUNNEL])
    with pytest.raises(IgdError, match="has not answered for 5 minutes") as error:
        run(cluster)
    assert "job igd-rank-1 runs on" in str(error.value)
    assert f"ray job logs --address {ADDRESS} --follow igd-rank-1" in str(error.value)
    assert "connection refused" in str(error.value)
    assert "\n" not in str(error.value)
    assert 300 <= cluster.seconds < 360


def test_a_head_that_was_started_anew_knows_no_job(run: Run) -> None:
    unknown = RuntimeError("Request failed with status code 404: Job igd-rank-1 does not exist.")
    with pytest.raises(IgdError, match="no longer knows job igd-rank-1"):
        run(Cluster([(6, BROKEN)], [RUNNING, unknown]))


def test_a_missing_or_wrong_token_is_told_at_submission_and_later(run: Run) -> None:
    refused = AuthenticationError("Authentication required: Unauthorized")
    with pytest.raises(IgdError, match="wants its token"):
        run(Cluster([], [RUNNING], refusal=refused))
    with pytest.raises(IgdError, match="wants its token"):
        run(Cluster([(6, BROKEN)], [RUNNING, refused]))


def test_a_port_is_no_status_code(run: Run) -> None:
    failure = RuntimeError(f"Request failed with status code 500: no agent at {ADDRESS}, 403 waiting.")
    with pytest.raises(IgdError, match="did not take the job: Request failed with status code 500"):
        run(Cluster([], [RUNNING], refusal=failure))
