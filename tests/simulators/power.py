# SPDX-License-Identifier: Apache-2.0
"""A disk whose power can be cut: what survives is what a real one may keep.

The files are real, so readers see what a page cache would show. Beside them the model
keeps what is durable: a file's bytes since they were last synced, a directory's names
since it was last synced. `restart_after_cut` rewrites the folder to one state that a
power cut allows: unsynced bytes are old, new, missing, cut short or end in zeros;
unsynced names are lost or kept, each change by itself, a rename as a whole.
"""

import random
from dataclasses import dataclass, field
from pathlib import Path

from kedge_agent.disk import Fs, OsFs


class PowerCutError(BaseException):
    """The power went. No `except` of the agent may catch it."""


@dataclass
class Inode:
    volatile: bytes = b""
    durable: bytes = b""


@dataclass
class NameChange:
    """Names of one directory that appear or disappear together."""

    names: list[tuple[Path, Inode | None]]


@dataclass
class PowerFs(Fs):
    """Counts changes; the one after `cut_after` does not happen.

    `forgets` names a kind of sync that this disk only pretends to do, to see that the
    test would notice an agent that forgot it: `file` or `directory`.
    """

    rng: random.Random
    forgets: str = ""
    cut_after: int | None = None
    changes: int = 0
    names: dict[Path, Inode] = field(default_factory=dict)
    durable_names: dict[Path, Inode] = field(default_factory=dict)
    pending: list[NameChange] = field(default_factory=list)
    real: OsFs = field(default_factory=OsFs)

    def write(self, path: Path, data: bytes, *, offset: int, mode: int) -> None:
        self._tick()
        inode = self.names.get(path)
        if inode is None:
            inode = self.names[path] = Inode()
            self.pending.append(NameChange([(path, inode)]))
        inode.volatile = inode.volatile[:offset] + data
        self.real.write(path, data, offset=offset, mode=mode)

    def sync(self, path: Path) -> None:
        self._tick()
        if path in self.names:
            if self.forgets != "file":
                self.names[path].durable = self.names[path].volatile
        elif self.forgets != "directory":
            self._sync_names(path)

    def rename(self, source: Path, target: Path) -> None:
        self._tick()
        inode = self.names.pop(source)
        self.names[target] = inode
        self.pending.append(NameChange([(source, None), (target, inode)]))
        self.real.rename(source, target)

    def unlink(self, path: Path) -> None:
        self._tick()
        self.names.pop(path)
        self.pending.append(NameChange([(path, None)]))
        self.real.unlink(path)

    def restart_after_cut(self) -> None:
        """Cut the power now and leave what a start would find."""
        keep_all = self.rng.random() < 0.2
        for change in self.pending:
            if keep_all or self.rng.random() < 0.5:
                _apply(change, self.durable_names)
        for path in self.names:
            path.unlink()
        kept = {id(inode): self._survives(inode) for inode in self._inodes()}
        self.names = dict(self.durable_names)
        for path, inode in self.names.items():
            inode.volatile = inode.durable = kept[id(inode)]
            path.write_bytes(inode.volatile)
        self.pending.clear()
        self.cut_after = None
        self.changes = 0

    def _inodes(self) -> list[Inode]:
        return list(self.durable_names.values())

    def _survives(self, inode: Inode) -> bytes:
        if inode.durable == inode.volatile:
            return inode.volatile
        new = inode.volatile
        half = len(new) // 2
        return self.rng.choice(
            [
                inode.durable,
                new,
                b"",
                new[: self.rng.randrange(len(new) + 1)],
                new[:half] + bytes(len(new) - half),
            ]
        )

    def _sync_names(self, folder: Path) -> None:
        rest = []
        for change in self.pending:
            if change.names[0][0].parent == folder:
                _apply(change, self.durable_names)
            else:
                rest.append(change)
        self.pending = rest

    def _tick(self) -> None:
        if self.cut_after is not None and self.changes >= self.cut_after:
            raise PowerCutError
        self.changes += 1


def _apply(change: NameChange, names: dict[Path, Inode]) -> None:
    for path, inode in change.names:
        if inode is None:
            names.pop(path, None)
        else:
            names[path] = inode
