# SPDX-License-Identifier: Apache-2.0
"""Run by `make agent-only` in an environment that has only kedge[agent] in it.

Nothing of the control plane may be there, the command must start, and the runtime
process must answer its supervisor.
"""

import importlib.util
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import grpc

from kedge_wire.v1.runtime_pb2 import StatusRequest
from kedge_wire.v1.runtime_pb2_grpc import RuntimeControlStub

FORBIDDEN = (
    "sqlalchemy",
    "alembic",
    "nicegui",
    "starlette",
    "onnx",
    "pytest",
)


def main() -> int:
    found = [name for name in FORBIDDEN if importlib.util.find_spec(name)]
    if found:
        print(f"kedge[agent] pulled in {', '.join(found)}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        _the_command_starts(Path(folder))
        _the_runtime_answers(Path(folder))
    print("kedge[agent] alone: 1 passed, 0 failed")
    return 0


def _the_command_starts(folder: Path) -> None:
    agent = Path(sys.executable).with_name("kedge-agent")
    subprocess.run([agent, "version"], check=True)
    unenrolled = subprocess.run(
        [agent, "run", "--state-dir", folder / "state"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if unenrolled.returncode != 1 or "enrol" not in unenrolled.stderr:
        raise SystemExit(f"kedge-agent run: {unenrolled}")


def _the_runtime_answers(folder: Path) -> None:
    control = folder / "control.sock"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "kedge_agent.runtime"),
                *("--socket", control, "--grpc-socket", folder / "oip.sock"),
                *("--http-fd", str(listener.fileno()), "--parent", str(os.getpid())),
            ],
            pass_fds=[listener.fileno()],
        )
        try:
            with grpc.insecure_channel(f"unix:{control}") as channel:
                grpc.channel_ready_future(channel).result(timeout=60)
                status = RuntimeControlStub(channel).GetStatus(
                    StatusRequest(), timeout=10
                )
            if "CPUExecutionProvider" not in status.facts.providers:
                raise SystemExit(f"runtime: {status}")
        finally:
            process.terminate()
            process.wait(timeout=30)


if __name__ == "__main__":
    sys.exit(main())
