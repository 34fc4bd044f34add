# SPDX-License-Identifier: Apache-2.0
"""The largest artifact of each kind."""

from typing import Final

from kedge_wire.statement import ArtifactKind

MAX_BYTES: Final = {
    ArtifactKind.COMPONENT: 32
    * 1024
    * 1024,  # compiling takes most of a second per MiB
    ArtifactKind.MODEL: 512 * 1024 * 1024,  # parsing takes as much again in memory
    ArtifactKind.CONFIG: 64 * 1024,  # kept whole in the database, sent whole to devices
}
