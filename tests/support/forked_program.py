"""A program `reid` for a shell of a test, which runs each command as a fork of the loaded libraries.

The fork has the arguments, the folder, the environment and the open files of the program in the shell. The
program ends with the exit code of the fork. A program without a fork would import the libraries for seconds.
"""

import json
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingUnixStreamServer
from threading import Thread

from command_line import be_reid
from forked import Fork

PROGRAM = """\
#!{python} -IS
import json, os, socket, sys

with socket.socket(socket.AF_UNIX) as door:
    door.connect({address!r})
    socket.send_fds(door, [b" "], [0, 1, 2])
    told = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)])
    door.sendall(told.encode() + b"\\n")
    sys.exit(int(door.recv(8)))
"""


@contextmanager
def forked_program() -> Iterator[Path]:
    """Return a folder with the program, which is there as long as the context."""
    with tempfile.TemporaryDirectory(prefix="reid") as folder:
        address, program = Path(folder) / "socket", Path(folder) / "bin" / "reid"
        program.parent.mkdir()
        program.write_text(PROGRAM.format(python=sys.executable, address=str(address)))
        program.chmod(0o700)
        with ThreadingUnixStreamServer(str(address), _Run) as server:
            thread = Thread(target=server.serve_forever, args=[0.02])
            thread.start()
            yield program.parent
            server.shutdown()
            thread.join()


class _Run(BaseRequestHandler):
    """One run of the program in a shell."""

    def handle(self) -> None:
        """Run the command, and tell its exit code."""
        process = Fork(_be_program, self.request, environment={}, may_have_children=True)
        self.request.sendall(str(process.wait()).encode())


def _be_program(door: socket.socket) -> None:
    """Be the program that is at the other end of a socket."""
    _, files, _, _ = socket.recv_fds(door, 1, 3)
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    sys.stdin, sys.stdout = open(0), open(1, "w")  # noqa: SIM115 - until the process ends
    sys.stderr = open(2, "w", buffering=1)  # noqa: SIM115
    with door.makefile() as lines:
        command, folder, environment = json.loads(lines.readline())
    os.environ.clear()
    os.environ.update(environment)
    be_reid(command, folder)
