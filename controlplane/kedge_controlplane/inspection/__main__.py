# SPDX-License-Identifier: Apache-2.0
"""One inspection: `python -m kedge_controlplane.inspection KIND MEMORY CPU SCHEMA`.

Reads the schema, then the artifact from standard input, writes a report to standard
output. Run by `inspector`, which explains why this is a process. The limits are set
before the first byte is read.
"""

import resource
import sys

from kedge_controlplane.inspection.artifact import inspect
from kedge_controlplane.inspection.limits import MAX_BYTES
from kedge_wire.statement import ArtifactKind


def main() -> None:
    kind = ArtifactKind(sys.argv[1])
    memory_bytes, cpu_time_s, schema_bytes = (int(text) for text in sys.argv[2:5])
    # Not RLIMIT_AS: Wasmtime reserves address space by the gigabyte, untouched.
    resource.setrlimit(resource.RLIMIT_DATA, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (cpu_time_s, cpu_time_s))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    schema = sys.stdin.buffer.read(schema_bytes)
    artifact = sys.stdin.buffer.read(MAX_BYTES[kind] + 1)
    report = inspect(kind, artifact, schema=schema)
    sys.stdout.buffer.write(report.to_json())


if __name__ == "__main__":
    main()
