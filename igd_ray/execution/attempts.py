"""Records every lease of a unit to a worker in the catalog, while a run computes."""

import time
import uuid
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

from igd_ray.catalog import Catalog
from igd_ray.units.base import Unit, UnitReport

TABLE = "attempts"

# Most of the driver's time that writing may take, as a share, however slow the storage is.
SHARE_OF_TIME = 0.05

# A running attempt is confirmed this often. After two minutes without that, the view `attempts` shows it as lost.
SECONDS_BETWEEN_SIGNS = 30.0

# Most attempts per file. The newest file is written again whenever an attempt starts or ends; full files stay.
ROWS_OF_A_FILE = 2000


def outcome_of(report: UnitReport, parts: Sequence[Unit]) -> str:
    """Return the outcome of an attempt from its `report` and the `parts` that replace its unit."""
    return "split" if parts else "done" if report.error is None else "error"


class AttemptLog:
    """The attempts of one executor, in files that only it writes."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._session = uuid.uuid4().hex[:12]
        self._earlier: Counter[str] | None = None
        self._running: dict[str, dict[str, object]] = {}
        self._ended: list[dict[str, object]] = []
        self._file = 0
        self._dirty = False
        self._written = time.monotonic()
        self._cost = 0.0

    def start(self, unit: Unit, *, worker: int, host: str) -> int:
        """Record that `unit` starts on the process `worker` of `host`; return the number of this attempt, from 1."""
        if self._earlier is None:
            self._earlier = self._count()
        self._earlier[unit.key] += 1
        attempt = self._earlier[unit.key]
        self._running[unit.key] = {
            "unit_key": unit.key,
            "kind": unit.kind,
            "attempt": attempt,
            "session": self._session,
            "worker": worker,
            "host": host,
            "started_at": datetime.now(UTC),
            "ended_at": None,
            "outcome": None,
            "error": None,
        }
        self._dirty = True
        return attempt

    def end(self, key: str, outcome: str, error: str | None = None) -> int:
        """Record how the running attempt at the unit `key` ended; return its number."""
        row = self._running.pop(key)
        self._ended.append({**row, "ended_at": datetime.now(UTC), "outcome": outcome, "error": error})
        self._dirty = True
        assert self._earlier is not None
        return self._earlier[key]

    @property
    def seconds_until_due(self) -> float:
        """Seconds until `flush_if_due` writes."""
        if len(self._ended) >= ROWS_OF_A_FILE:
            return 0.0
        pause = self._cost / SHARE_OF_TIME if self._dirty else SECONDS_BETWEEN_SIGNS
        return max(0.0, self._written + pause - time.monotonic())

    def flush_if_due(self) -> None:
        """Write what has changed, unless the last write is too recent; confirm running attempts from time to time."""
        if (self._dirty or self._running) and self.seconds_until_due == 0.0:
            self.flush()

    def flush(self) -> None:
        """Write the newest file of this session.

        Raises:
            IgdError: if it cannot be written.
        """
        started = time.monotonic()
        now = datetime.now(UTC)
        if len(self._ended) >= ROWS_OF_A_FILE:
            self._commit(self._ended, now)
            self._ended = []
            self._file += 1
        self._commit([*self._ended, *self._running.values()], now)
        self._dirty = False
        self._written = time.monotonic()
        self._cost = self._written - started

    def close(self) -> None:
        """Record running attempts as lost, and write everything."""
        for key in list(self._running):
            self.end(key, "lost")
        if self._dirty:
            self.flush()

    def _commit(self, rows: list[dict[str, object]], now: datetime) -> None:
        if rows:
            key = f"{self._session}-{self._file:04d}"
            self._catalog.commit(TABLE, key, [{**row, "seen_at": now} for row in rows], replace=True)

    def _count(self) -> Counter[str]:
        """Return the number of attempts of earlier sessions at each unit."""
        counts: Counter[str] = Counter()
        for key in self._catalog.keys(TABLE):
            rows = self._catalog.read_if_whole(TABLE, key)
            if rows is not None:
                counts.update(rows["unit_key"].to_pylist())
        return counts
