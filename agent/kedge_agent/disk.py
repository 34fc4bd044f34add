# SPDX-License-Identifier: Apache-2.0
"""The only door to the device's disk for artifacts, generations and small records.

    <root>/cas/<sha256>          an artifact, complete and verified, mode 0444
    <root>/cas/.part-<sha256>    a download that can be resumed
    <root>/gen/<n>.bin           a sealed generation: its SHA-256, then its bytes

Decides nothing about what is wanted. A name without a dot only ever appears by
write-to-temporary, fsync, rename, fsync of the directory; so after an interruption at
any point (a kill, a power cut, a full disk) a name either is absent or holds the whole
of what was put there. Bytes are still hashed when they are used again, because disks
rot.

`Store` blocks, so it is called on threads. It keeps nothing in memory, and no two
threads change the same name: generations are sealed and collected on the `DiskThread`,
downloads are written on the fetcher's thread. A download that was cancelled may end
while its bytes are collected; its digest decides about what is left of it.
"""

import asyncio
import errno
import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Final, ParamSpec, TypeVar

from kedge_agent.errors import CorruptArtifactError, DiskFullError, StateError

CHUNK_BYTES: Final = 1024 * 1024
"""Read and written at a time: large enough for an SD card, small enough for memory."""

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_ROTTEN: Final = frozenset({errno.EIO, errno.EBADMSG, errno.EUCLEAN, errno.EISDIR})
"""What a disk says of a file that it cannot give back any more."""

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_GENERATION: Final = re.compile(r"([1-9][0-9]{0,18})\.bin")
_SEAL_BYTES: Final = hashlib.sha256().digest_size

P = ParamSpec("P")
T = TypeVar("T")


class Fs(ABC):
    """The four changes to a disk whose durability differs.

    Only `sync` makes anything durable: a file's bytes when given a file, the names in
    it when given a directory. Before that, a power cut may keep, lose or tear any of
    it. Reading needs no seam. Each raises OSError.
    """

    @abstractmethod
    def write(self, path: Path, data: bytes, *, offset: int, mode: int) -> None:
        """Put `data` at `offset` and end the file behind it; create it with `mode`."""

    @abstractmethod
    def sync(self, path: Path) -> None:
        """Make a file's bytes, or a directory's names, survive a power cut."""

    @abstractmethod
    def rename(self, source: Path, target: Path) -> None:
        """Replace `target` atomically."""

    @abstractmethod
    def unlink(self, path: Path) -> None:
        """Remove a name."""


class OsFs(Fs):
    """The real disk."""

    def write(self, path: Path, data: bytes, *, offset: int, mode: int) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, mode)
        try:
            view = memoryview(data)
            while view:
                written = os.pwrite(fd, view, offset)
                offset += written
                view = view[written:]
            os.ftruncate(fd, offset)
        finally:
            os.close(fd)

    def sync(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)

    def unlink(self, path: Path) -> None:
        path.unlink()


class DiskThread:
    """One thread for everything that waits for the disk, in the order it was asked for.

    A cancelled caller does not stop what was begun; the next call queues behind it, so
    no two pieces of work ever overlap.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="kedge-disk")

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.wrap_future(self._pool.submit(work, *args, **kwargs))

    def close(self) -> None:
        self._pool.shutdown(wait=True)


def write_atomically(
    path: Path, data: bytes, *, mode: int = 0o600, fs: Fs | None = None
) -> None:
    """Replace `path` by `data`: afterwards, and after any interruption, old or new.

    Raises:
        DiskFullError: No space; the old content stands.
        StateError: The disk refuses.
    """
    fs = fs or OsFs()
    temporary = path.with_name(f".tmp-{path.name}")
    with _translated(path):
        if temporary.exists():  # a left-over may have another mode
            fs.unlink(temporary)
        fs.write(temporary, data, offset=0, mode=mode)
        fs.sync(temporary)
        fs.rename(temporary, path)
        fs.sync(path.parent)


class Store:
    """Artifacts by digest, and sealed generations by number."""

    def __init__(
        self, root: Path, *, min_free_bytes: int = 0, fs: Fs | None = None
    ) -> None:
        """Create the folders; remove what an interrupted write left behind.

        Raises:
            StateError: The folders cannot be made.
        """
        self.cas_directory: Final = root / "cas"
        self._generations = root / "gen"
        self._min_free_bytes = min_free_bytes
        self._fs = fs or OsFs()
        with _translated(root):
            for folder in (root, self.cas_directory, self._generations):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for stale in self._generations.glob(".tmp-*"):
                self._fs.unlink(stale)
            self._fs.sync(root)

    def path(self, digest: str) -> Path:
        """Where an artifact is, if it is there."""
        return self.cas_directory / digest

    def holds(self, digest: str, *, length: int) -> bool:
        """Read the artifact; say if it is there and whole, remove it if it is not.

        Raises:
            StateError: The disk refuses to be read.
        """
        path = self.path(digest)
        with _translated(path):
            if not os.path.lexists(path):
                return False
            if _is_whole(path, digest, length=length):
                # Whoever renamed it may have been interrupted before this.
                self._fs.sync(self.cas_directory)
                path.chmod(0o444)
                return True
            self._fs.unlink(path)
            return False

    def reserve(self, wanted: dict[str, int]) -> None:
        """Make sure that the missing artifacts (digest to length) will fit.

        Raises:
            DiskFullError: They would leave less than the free space we must keep.
        """
        with _translated(self.cas_directory):
            missing = sum(
                max(0, length - self.resumable(digest))
                for digest, length in wanted.items()
                if not self.path(digest).exists()
            )
            disk = os.statvfs(self.cas_directory)
        free = disk.f_bavail * disk.f_frsize
        if missing and free - missing < self._min_free_bytes:
            raise DiskFullError(
                f"disk: expected {missing + self._min_free_bytes} bytes free "
                f"({missing} to download, {self._min_free_bytes} to keep), "
                f"found {free}",
                element=str(self.cas_directory),
            )

    def resumable(self, digest: str) -> int:
        """Bytes of an earlier download that can be resumed.

        Raises:
            StateError: The disk refuses to say.
        """
        part = self._part(digest)
        with _translated(part):
            try:
                return part.stat().st_size
            except FileNotFoundError:
                return 0

    def download(self, digest: str, *, length: int) -> "Download":
        """Begin or resume putting an artifact here."""
        return Download(self, digest=digest, length=length)

    def put_generation(self, generation: int, payload: bytes) -> None:
        """Seal `payload` as generation `generation`.

        Raises:
            DiskFullError: No space; nothing was changed.
        """
        sealed = hashlib.sha256(payload).digest() + payload
        write_atomically(
            self._generations / f"{generation}.bin", sealed, mode=0o400, fs=self._fs
        )

    def generation(self, generation: int) -> bytes:
        """Return what was sealed.

        Raises:
            CorruptArtifactError: Absent, or not what was sealed.
        """
        path = self._generations / f"{generation}.bin"
        try:
            sealed = path.read_bytes()
        except OSError as exc:
            raise CorruptArtifactError(
                f"generation {generation}: expected a readable file, found {exc}",
                element=str(generation),
            ) from exc
        seal, payload = sealed[:_SEAL_BYTES], sealed[_SEAL_BYTES:]
        if hashlib.sha256(payload).digest() != seal:
            raise CorruptArtifactError(
                f"generation {generation}: expected SHA-256 {seal.hex()}, "
                f"found {hashlib.sha256(payload).hexdigest()}",
                element=str(generation),
            )
        return payload

    def collect(
        self, *, digests: Collection[str], generations: Collection[int], floor: int
    ) -> int:
        """Remove everything but these, and no generation from the floor on.

        Returns how many files went.
        """
        removed = 0
        with _translated(self.cas_directory):
            for path in self.cas_directory.iterdir():
                digest = path.name.removeprefix(".part-")
                if _DIGEST.fullmatch(digest) and digest not in digests:
                    self._fs.unlink(path)
                    removed += 1
            for path in self._generations.iterdir():
                match = _GENERATION.fullmatch(path.name)
                number = int(match[1]) if match else floor
                if number < floor and number not in generations:
                    self._fs.unlink(path)
                    removed += 1
        return removed

    def _part(self, digest: str) -> Path:
        return self.cas_directory / f".part-{digest}"


class Download:
    """One artifact on its way in: `write` the rest from `offset` on, then `finish`.

    Abandoned at any point, it leaves bytes that a later download of the same digest
    resumes.
    """

    def __init__(self, store: Store, *, digest: str, length: int) -> None:
        self._store, self._digest, self._length = store, digest, length
        self._part = store._part(digest)  # noqa: SLF001  # one idea in two classes
        self._hash = hashlib.sha256()
        self.offset = 0
        with _translated(self._part):
            if 0 < store.resumable(digest) <= length:
                self._hash = _sha256(self._part)
                self.offset = self._part.stat().st_size

    def restart(self) -> None:
        """Begin at zero: the server could not send a part."""
        self._hash = hashlib.sha256()
        self.offset = 0

    def write(self, chunk: bytes) -> None:
        """Append.

        Raises:
            CorruptArtifactError: More than the signed length.
            DiskFullError: No space; what is there can be resumed.
        """
        if self.offset + len(chunk) > self._length:
            self._discard()
            raise CorruptArtifactError(
                f"artifact: expected {self._length} bytes, found more",
                element=self._digest,
            )
        with _translated(self._part):
            self._store._fs.write(  # noqa: SLF001
                self._part, chunk, offset=self.offset, mode=0o600
            )
        self._hash.update(chunk)
        self.offset += len(chunk)

    def finish(self) -> None:
        """Give the artifact its name, if it is what was signed.

        Raises:
            CorruptArtifactError: It is not; the download was removed.
            DiskFullError: No space to make it durable.
        """
        fs = self._store._fs  # noqa: SLF001
        found = self._hash.hexdigest()
        if self.offset != self._length or found != self._digest:
            self._discard()
            raise CorruptArtifactError(
                f"artifact: expected {self._length} bytes with SHA-256 {self._digest}, "
                f"found {self.offset} bytes with {found}",
                element=self._digest,
            )
        final = self._store.path(self._digest)
        with _translated(final):
            if not self._length:
                fs.write(self._part, b"", offset=0, mode=0o600)
            fs.sync(self._part)
            fs.rename(self._part, final)
            fs.sync(self._store.cas_directory)
            final.chmod(0o444)

    def _discard(self) -> None:
        with _translated(self._part):
            if self._part.exists():
                self._store._fs.unlink(self._part)  # noqa: SLF001
        self.restart()


def _is_whole(path: Path, digest: str, *, length: int) -> bool:
    try:
        return path.stat().st_size == length and _sha256(path).hexdigest() == digest
    except OSError as exc:
        if exc.errno in _ROTTEN:
            return False  # as good as other bytes: it can be fetched again
        raise


def _sha256(path: Path) -> "hashlib._Hash":
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if exc.errno in _FULL:
            raise DiskFullError(
                f"disk: expected room for {path.name}, found {exc.strerror}",
                element=str(path),
            ) from exc
        raise StateError(
            f"disk: expected to read and write {path}, found {exc.strerror or exc}",
            element=str(path),
        ) from exc
