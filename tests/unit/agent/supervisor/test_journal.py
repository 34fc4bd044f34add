# SPDX-License-Identifier: Apache-2.0
from collections.abc import Iterator
from pathlib import Path

import pytest

from kedge_agent.errors import StateError
from kedge_agent.journal import Journal, JournalState


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal(tmp_path / "journal.db") as journal:
        yield journal


def reopened(journal: Journal, tmp_path: Path) -> JournalState:
    journal.close()
    with Journal(tmp_path / "journal.db") as again:
        return again.state


def test_a_new_journal_knows_nothing(journal: Journal) -> None:
    assert journal.state == JournalState()


def test_the_floor_and_the_clock_only_rise(journal: Journal) -> None:
    journal.accept(5, digest="five", clock=100.0)
    journal.accept(4, digest="four", clock=50.0)
    state = journal.state
    assert (state.floor, state.floor_digest, state.clock_floor) == (5, "five", 100.0)


def test_a_commit_moves_current_to_previous(journal: Journal, tmp_path: Path) -> None:
    journal.begin(1)
    journal.commit(1, result=1)
    journal.begin(2)
    assert (journal.state.current, journal.state.trial) == (1, 2)
    journal.commit(2, result=1)
    state = reopened(journal, tmp_path)
    assert (state.current, state.previous, state.trial) == (2, 1, 0)


def test_committing_twice_keeps_the_previous_one(journal: Journal) -> None:
    journal.commit(1, result=1)
    journal.commit(2, result=1)
    journal.commit(2, result=1)
    assert (journal.state.current, journal.state.previous) == (2, 1)


def test_adopting_keeps_the_previous_one(journal: Journal, tmp_path: Path) -> None:
    journal.commit(1, result=1)
    journal.commit(2, result=1)
    journal.fail(content="bad", result=2, failure=b"why")
    journal.adopt(3, result=1)
    state = reopened(journal, tmp_path)
    assert (state.current, state.previous) == (3, 1)
    assert (state.failed, state.failure, state.result) == ("", b"", 1)


def test_a_failed_trial_leaves_current_and_remembers_the_content(
    journal: Journal, tmp_path: Path
) -> None:
    journal.commit(1, result=1)
    journal.attempt("bad")
    journal.begin(2)
    journal.fail(content="bad", result=4, failure=b"why")
    state = reopened(journal, tmp_path)
    assert (state.current, state.trial, state.failed) == (1, 0, "bad")
    assert (state.result, state.failure, state.attempts) == (4, b"why", 0)


def test_attempts_at_one_content_are_counted_over_restarts(
    journal: Journal, tmp_path: Path
) -> None:
    journal.attempt("a")
    journal.attempt("a")
    journal.fail(content="", result=2, failure=b"")
    assert reopened(journal, tmp_path).attempts == 2
    with Journal(tmp_path / "journal.db") as again:
        again.attempt("b")
        assert again.state.attempts == 1


def test_a_failure_of_other_content_is_over_when_the_next_is_attempted(
    journal: Journal,
) -> None:
    journal.attempt("a")
    journal.fail(content="", result=2, failure=b"why")
    journal.attempt("a")
    assert journal.state.failure == b"why"
    journal.attempt("b")
    assert journal.state.failure == b""


def test_falling_back_makes_the_previous_one_current(journal: Journal) -> None:
    journal.commit(1, result=1)
    journal.commit(2, result=1)
    journal.fall_back()
    assert (journal.state.current, journal.state.previous) == (1, 0)


def test_report_numbers_never_repeat(journal: Journal, tmp_path: Path) -> None:
    first = journal.reserve_sequence()
    journal.close()
    with Journal(tmp_path / "journal.db") as again:
        assert again.reserve_sequence().start == first.stop


def test_it_can_be_read_while_it_is_written(journal: Journal, tmp_path: Path) -> None:
    journal.accept(3, digest="x", clock=0)
    with Journal(tmp_path / "journal.db", read_only=True) as reader:
        assert reader.state.floor == 3


def test_a_file_that_is_no_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"not a database, and long enough to look at" * 100)
    with pytest.raises(StateError, match="expected a usable"):
        Journal(path)


def test_the_journal_waits_for_the_disk_at_every_commit(journal: Journal) -> None:
    (mode,) = journal._db.execute("PRAGMA journal_mode").fetchone()
    (synchronous,) = journal._db.execute("PRAGMA synchronous").fetchone()
    assert (mode, synchronous) == ("wal", 2)
