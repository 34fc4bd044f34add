# SPDX-License-Identifier: Apache-2.0
"""What the device must not forget: one row, changed in one transaction at a time.

    accept     floor -> n                        a verified order, on disk already
    attempt    attempts + 1                      before the runtime is asked to load it
    begin      trial -> n                        before it serves
    commit     previous <- current <- trial      it stayed healthy
    adopt      current -> n                      the same workloads under a newer order
    fail       trial -> none, failed content     it did not; current never changed
    fall_back  current <- previous           the committed one cannot be loaded any more

`current` is always a generation that passed its health window, so "go back" after an
interruption means to forget the trial. SQLite in WAL mode with synchronous=FULL: a
method that returned is durable, one that did not changed nothing or everything.

Not thread-safe; the supervisor calls it on the disk thread only.
"""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from kedge_agent.errors import DiskFullError, StateError

SEQUENCE_BLOCK: Final = 1000
"""Report numbers taken at a time: one fsync for a thousand, a gap after a restart."""

_BUSY_MS: Final = 5000
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS state (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    current INTEGER NOT NULL DEFAULT 0,
    previous INTEGER NOT NULL DEFAULT 0,
    trial INTEGER NOT NULL DEFAULT 0,
    floor INTEGER NOT NULL DEFAULT 0,
    floor_digest TEXT NOT NULL DEFAULT '',
    clock_floor REAL NOT NULL DEFAULT 0,
    sequence INTEGER NOT NULL DEFAULT 0,
    attempted TEXT NOT NULL DEFAULT '',
    attempts INTEGER NOT NULL DEFAULT 0,
    failed TEXT NOT NULL DEFAULT '',
    result INTEGER NOT NULL DEFAULT 0,
    failure BLOB NOT NULL DEFAULT x''
) STRICT;
INSERT OR IGNORE INTO state (id) VALUES (1);
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalState:
    """The row. Generation 0 means none."""

    current: int = 0  # serves, and passed its health window
    previous: int = 0  # served before it; still on disk
    trial: int = 0  # activated, health not yet known
    floor: int = 0  # newest order accepted: what is wanted
    floor_digest: str = ""  # SHA-256 of that order's payload
    clock_floor: float = 0.0  # newest time a director signed; the clock is never before
    sequence: int = 0  # report numbers below this are used up
    attempted: str = ""  # content digest that is being tried
    attempts: int = 0  # how often it was begun and not finished
    failed: str = ""  # content digest that is not tried again
    result: int = 0  # kedge_wire Result of the last finished update
    failure: bytes = b""  # serialised kedge_wire Failure of it


class Journal:
    """The open journal."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open, or create, the journal.

        Raises:
            StateError: Not a journal, or damaged.
            DiskFullError: No space to create it.
        """
        mode = "ro" if read_only else "rwc"
        self._path = path
        with self._translated():
            # Used on the disk thread, opened and closed by its owner.
            self._db = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode={mode}",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
                timeout=_BUSY_MS / 1000,
            )
        with self._translated():
            self._db.row_factory = sqlite3.Row
            if not read_only:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                self._db.executescript(_SCHEMA)
            self.state = self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    def accept(self, generation: int, *, digest: str, clock: float) -> None:
        """Raise the floor to an order whose bytes are already sealed on disk."""
        self._write(
            "UPDATE state SET floor = :generation, floor_digest = :digest, "
            "clock_floor = max(clock_floor, :clock) WHERE :generation >= floor",
            generation=generation,
            digest=digest,
            clock=clock,
        )

    def attempt(self, content: str) -> None:
        """Count that `content` is about to be loaded; a failure of other is over."""
        self._write(
            "UPDATE state SET attempts = CASE WHEN attempted = :content "
            "THEN attempts + 1 ELSE 1 END, failure = CASE WHEN attempted = :content "
            "THEN failure ELSE x'' END, attempted = :content",
            content=content,
        )

    def begin(self, generation: int) -> None:
        """Note that `generation` is about to serve on trial."""
        self._write("UPDATE state SET trial = :generation", generation=generation)

    def commit(self, generation: int, *, result: int) -> None:
        """Make `generation` the current one; the one before stays as previous."""
        self._write(
            "UPDATE state SET previous = CASE WHEN current = :generation "
            "THEN previous ELSE current END, current = :generation, trial = 0, "
            "attempted = '', attempts = 0, failed = '', result = :result, "
            "failure = x''",
            generation=generation,
            result=result,
        )

    def adopt(self, generation: int, *, result: int) -> None:
        """Number the current workloads anew; what was there before them stays."""
        self._write(
            "UPDATE state SET current = :generation, trial = 0, attempted = '', "
            "attempts = 0, failed = '', result = :result, failure = x''",
            generation=generation,
            result=result,
        )

    def fail(self, *, content: str, result: int, failure: bytes) -> None:
        """End a trial or attempt; `content` empty means that it may be tried again."""
        self._write(
            "UPDATE state SET trial = 0, failed = :content, result = :result, "
            "failure = :failure, attempted = CASE WHEN :content = '' THEN attempted "
            "ELSE '' END, attempts = CASE WHEN :content = '' THEN attempts ELSE 0 END",
            content=content,
            result=result,
            failure=failure,
        )

    def forget_trial(self) -> None:
        """After an interruption: the trial is over, the current generation stands."""
        self._write("UPDATE state SET trial = 0")

    def fall_back(self) -> None:
        """The current generation is unusable: the previous one is current."""
        self._write("UPDATE state SET current = previous, previous = 0, trial = 0")

    def reserve_sequence(self) -> range:
        """Take a block of report numbers that no earlier process has used."""
        first = self.state.sequence + 1
        self._write(
            "UPDATE state SET sequence = :last", last=first + SEQUENCE_BLOCK - 1
        )
        return range(first, first + SEQUENCE_BLOCK)

    def _write(self, statement: str, **values: str | float | bytes) -> None:
        with self._translated():
            self._db.execute(statement, values)
            self.state = self._read()

    def _read(self) -> JournalState:
        columns = ", ".join(JournalState.__slots__)
        # The column names are our own dataclass's.
        row = self._db.execute(f"SELECT {columns} FROM state").fetchone()  # noqa: S608
        if row is None:
            raise StateError(
                f"journal: expected one row in {self._path}, found none",
                element=str(self._path),
            )
        return JournalState(**dict(row))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as exc:
            element = str(self._path)
            if getattr(exc, "sqlite_errorcode", 0) == sqlite3.SQLITE_FULL:
                raise DiskFullError(
                    f"journal: expected room for one page, found {exc}", element=element
                ) from exc
            raise StateError(
                f"journal: expected a usable {self._path}, found {exc}",
                element=element,
            ) from exc
