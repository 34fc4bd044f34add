# SPDX-License-Identifier: Apache-2.0
import errno
import hashlib
import stat
from pathlib import Path

import pytest

from kedge_agent.disk import OsFs, Store, write_atomically
from kedge_agent.errors import CorruptArtifactError, DiskFullError, StateError

DATA = bytes(range(256)) * 50
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def put(store: Store, data: bytes = DATA) -> str:
    digest = hashlib.sha256(data).hexdigest()
    download = store.download(digest, length=len(data))
    download.write(data[download.offset :])
    download.finish()
    return digest


def test_an_artifact_is_stored_whole_and_read_only(store: Store) -> None:
    assert not store.holds(DIGEST, length=len(DATA))
    put(store)
    assert store.holds(DIGEST, length=len(DATA))
    assert store.path(DIGEST).read_bytes() == DATA
    assert stat.S_IMODE(store.path(DIGEST).stat().st_mode) == 0o444


def test_an_empty_artifact_is_an_artifact(store: Store) -> None:
    assert store.holds(put(store, b""), length=0)


def test_a_download_is_resumed_where_it_ended(store: Store) -> None:
    store.download(DIGEST, length=len(DATA)).write(DATA[:1000])
    again = store.download(DIGEST, length=len(DATA))
    assert again.offset == 1000
    again.write(DATA[1000:])
    again.finish()
    assert store.holds(DIGEST, length=len(DATA))


def test_a_resumed_download_of_other_bytes_is_refused_and_forgotten(
    store: Store,
) -> None:
    store.download(DIGEST, length=len(DATA)).write(b"x" * 1000)
    again = store.download(DIGEST, length=len(DATA))
    again.write(DATA[1000:])
    with pytest.raises(CorruptArtifactError, match=f"SHA-256 {DIGEST}"):
        again.finish()
    assert store.resumable(DIGEST) == 0
    assert not store.path(DIGEST).exists()


def test_more_bytes_than_were_signed_are_refused(store: Store) -> None:
    download = store.download(DIGEST, length=10)
    with pytest.raises(CorruptArtifactError, match="expected 10 bytes"):
        download.write(DATA)
    assert store.resumable(DIGEST) == 0


def test_a_restarted_download_does_not_keep_old_bytes(store: Store) -> None:
    store.download(DIGEST, length=len(DATA)).write(DATA[:5000])
    again = store.download(DIGEST, length=len(DATA))
    again.restart()
    again.write(DATA)
    again.finish()
    assert store.holds(DIGEST, length=len(DATA))


def test_an_artifact_that_rotted_is_found_and_removed(store: Store) -> None:
    put(store)
    path = store.path(DIGEST)
    path.chmod(0o644)
    path.write_bytes(DATA[:-1] + b"\x00")
    assert not store.holds(DIGEST, length=len(DATA))
    assert not path.exists()


def test_an_artifact_that_cannot_be_read_any_more_is_removed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store)

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "open", refuse)
    assert not store.holds(DIGEST, length=len(DATA))
    assert not store.path(DIGEST).exists()


def test_an_artifact_that_cannot_be_read_now_stays(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store)

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(StateError, match="Too many open files"):
        store.holds(DIGEST, length=len(DATA))
    assert store.path(DIGEST).exists()


def test_a_disk_that_does_not_answer_is_a_state_error(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "stat", refuse)
    with pytest.raises(StateError):
        store.resumable(DIGEST)
    with pytest.raises(StateError):
        store.reserve({DIGEST: 1})


def test_a_sealed_generation_comes_back(store: Store) -> None:
    store.put_generation(7, b"order")
    assert store.generation(7) == b"order"


def test_a_generation_can_be_replaced(store: Store) -> None:
    store.put_generation(7, b"order")
    store.put_generation(7, b"another")
    assert store.generation(7) == b"another"


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 100])
def test_a_damaged_generation_is_refused(store: Store, content: bytes) -> None:
    store.put_generation(7, b"order")
    path = store.cas_directory.parent / "gen" / "7.bin"
    path.chmod(0o600)
    path.write_bytes(content)
    with pytest.raises(CorruptArtifactError, match="generation 7"):
        store.generation(7)


def test_an_absent_generation_is_refused(store: Store) -> None:
    with pytest.raises(CorruptArtifactError, match="readable"):
        store.generation(7)


def test_collecting_keeps_what_is_wanted_only(store: Store) -> None:
    kept, gone = put(store, b"kept"), put(store, b"gone")
    store.download(DIGEST, length=len(DATA)).write(b"x")
    for generation in (1, 2):
        store.put_generation(generation, b"order")
    assert store.collect(digests={kept}, generations={2}, floor=2) == 3
    assert store.holds(kept, length=4)
    assert not store.path(gone).exists()
    assert store.resumable(DIGEST) == 0
    assert store.generation(2)


def test_no_generation_from_the_floor_on_is_collected(store: Store) -> None:
    for generation in (1, 2, 3):
        store.put_generation(generation, b"order")
    assert store.collect(digests=(), generations=(), floor=2) == 1
    assert store.generation(2) == store.generation(3) == b"order"


def test_a_start_removes_interrupted_writes(store: Store) -> None:
    stale = store.cas_directory.parent / "gen" / ".tmp-3.bin"
    stale.write_bytes(b"half")
    Store(store.cas_directory.parent)
    assert not stale.exists()


def test_space_is_asked_for_before_the_download(tmp_path: Path) -> None:
    store = Store(tmp_path, min_free_bytes=2**60)
    with pytest.raises(DiskFullError, match="to keep"):
        store.reserve({DIGEST: 100})


def test_nothing_is_reserved_for_what_is_there(tmp_path: Path) -> None:
    put(Store(tmp_path))
    Store(tmp_path, min_free_bytes=2**60).reserve({DIGEST: len(DATA)})


def test_an_atomic_write_replaces_content_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "record"
    write_atomically(path, b"one", mode=0o644)
    write_atomically(path, b"two", mode=0o600)
    assert path.read_bytes() == b"two"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in tmp_path.iterdir()] == ["record"]


def test_a_disk_that_refuses_is_named(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="expected to read and write"):
        write_atomically(tmp_path / "absent" / "record", b"x")


def test_a_write_ends_the_file_behind_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    OsFs().write(path, b"123456", offset=0, mode=0o600)
    OsFs().write(path, b"ab", offset=2, mode=0o600)
    assert path.read_bytes() == b"12ab"
