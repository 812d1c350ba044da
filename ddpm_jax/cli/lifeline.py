"""Several processes of one job: that all do the same, and what is said once one of them is gone.

JAX notices a lost process by itself, but late or without naming it, and ends the others with a
stack of C++. Here each process holds a connection to the first one, which the kernel closes when
either dies, however it dies; who sees that says so in one line, and exits.
"""

import contextlib
import functools
import hashlib
import json
import os
import secrets
import selectors
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
from jax._src import distributed  # the store of keys and values has no public name
from jax._src.lib import _jax  # pyright: ignore[reportPrivateImportUsage]

import ddpm_jax
from ddpm_jax.errors import ConfigError

WAIT = 300
"""Seconds to wait for the other processes, as JAX does for all of them to be there."""

LOST = 3
"""Exit status where another process is gone."""

_CALM = b"bye\n"
_watching = threading.Event()


def initialize(*arguments: Any, **options: Any) -> None:
    """`jax.distributed.initialize`, and the lifeline between the processes."""
    # JAX aborts each process whose connection to its service breaks. So the service outlives the
    # first process for a moment, in which the others end by themselves.
    serve = _jax.get_distributed_runtime_service
    if os.name == "posix":
        _jax.get_distributed_runtime_service = _Service
    try:
        jax.distributed.initialize(*arguments, **options)
    finally:
        _jax.get_distributed_runtime_service = serve
    state = distributed.global_state
    host = (state.coordinator_address or "").rpartition(":")[0].strip("[]")
    hold(state.client, state.process_id, host)


class _Service:
    """JAX's service for the processes of a job, in a process of its own."""

    _PROGRAM = """
import json, os, sys, time
from jaxlib import _jax
arguments, options = json.loads(sys.argv[1])
service = _jax.get_distributed_runtime_service(*arguments, **options)
print("up", flush=True)
sys.stdin.read()  # until the process that it serves in lets go, or is gone
time.sleep(5)
os._exit(0)
"""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        words = json.dumps([arguments, options])
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, "-c", self._PROGRAM, words],
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            text=True,
            start_new_session=True,  # a terminal's Ctrl-C is not for it
        )
        if self.process.stdout is None or self.process.stdout.readline() != "up\n":
            _, said = self.process.communicate()
            raise RuntimeError(said.strip().rpartition("\n")[2])

    def shutdown(self) -> None:
        """Stop it, once all have said goodbye."""
        self.process.kill()
        self.process.communicate()


def hold(client: Any, process: int, host: str, lost: Callable[[int], None] | None = None) -> None:
    """Connect this process to the first, at `host`, and watch the connection in a thread.

    `lost` is called with the number of a process that is gone; by default, it ends this one.
    """
    lost = lost or _lost
    _watching.set()
    if process == 0:
        server = socket.create_server(("", 0))
        token = secrets.token_hex(16)
        client.key_value_set("ddpm_jax/lifeline", f"{server.getsockname()[1]} {token}")
        watch, arguments = _watch_all, (server, token, lost)
    else:
        port, token = client.blocking_key_value_get("ddpm_jax/lifeline", WAIT * 1000).split()
        try:
            line = socket.create_connection((host, int(port)), timeout=30)
        except OSError:  # a firewall: JAX's own ways must do
            return
        line.settimeout(None)
        _keep_alive(line)
        line.sendall(f"{token} {process}\n".encode())
        watch, arguments = _watch_first, (line, lost)
    threading.Thread(target=watch, args=arguments, daemon=True).start()


def release() -> None:
    """From now on processes may end: this one is about to, and says so to the others."""
    _watching.clear()
    for line in list(_lines):
        with contextlib.suppress(OSError):
            line.sendall(_CALM)


_lines: set[socket.socket] = set()


def _watch_first(line: socket.socket, lost: Callable[[int], None]) -> None:
    _lines.add(line)
    with contextlib.suppress(OSError), line.makefile("rb") as said:
        for number in said:
            if number == _CALM:
                return
            lost(int(number))
    lost(0)


def _watch_all(server: socket.socket, token: str, lost: Callable[[int], None]) -> None:
    numbers: dict[socket.socket, int] = {}
    with selectors.DefaultSelector() as ready:
        ready.register(server, selectors.EVENT_READ)
        while True:
            for key, _ in ready.select():
                if key.fileobj is server:
                    line, _ = server.accept()
                    line.settimeout(10)
                    try:
                        given, number = line.makefile("rb").readline(100).decode().split()
                        numbers[line] = int(number)
                    except (OSError, ValueError):
                        given = ""
                    if not secrets.compare_digest(given, token):
                        numbers.pop(line, None)
                        line.close()  # a stranger
                        continue
                    _keep_alive(line)
                    _lines.add(line)
                    ready.register(line, selectors.EVENT_READ)
                    continue
                line = key.fileobj
                assert isinstance(line, socket.socket)
                try:
                    calm = line.recv(100) == _CALM
                except OSError:
                    calm = False
                ready.unregister(line)
                _lines.discard(line)
                if not calm and _watching.is_set():
                    for other in _lines:
                        with contextlib.suppress(OSError):
                            other.sendall(f"{numbers[line]}\n".encode())
                    lost(numbers[line])


def _keep_alive(line: socket.socket) -> None:
    """Have the kernel notice within half a minute that the other machine is down."""
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


_saying = threading.Lock()


def _lost(process: int) -> None:
    """Say who is gone, once, and end: a collective operation with it would never return."""
    if not _watching.is_set():
        return
    _saying.acquire()  # for good
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.write(
            f"\nerror: process {process} is gone, and this one cannot go on without it. What was "
            "saved is whole: start all of them again, a training run with --resume\n"
        )
        sys.stderr.flush()
    os._exit(LOST)


def agree(what: Mapping[str, Any], client: Any = None, process: int = -1, count: int = 0) -> None:
    """Raise ConfigError unless all processes pass the same; each waits here for the others.

    `what` is an object of JSON, with objects in it; the error names the first difference, and the
    process. The code itself, and the versions that it runs with, are compared, too.
    """
    state = distributed.global_state
    client, count = client or state.client, count or state.num_processes
    process = state.process_id if process < 0 else process
    if client is None or count == 1:
        return
    mine = json.dumps({**what, "code": code()}, sort_keys=True)
    client.key_value_set(f"ddpm_jax/agree/{process}", mine)
    first = json.loads(client.blocking_key_value_get("ddpm_jax/agree/0", WAIT * 1000))
    found = None
    for other in range(1, count):
        theirs = json.loads(client.blocking_key_value_get(f"ddpm_jax/agree/{other}", WAIT * 1000))
        if (name := _first_difference(first, theirs)) and not found:
            values = [json.dumps(_value(tree, name))[:100] for tree in (theirs, first)]
            found = (
                f"process {other} differs from process 0 in {'.'.join(name)}: {values[0]} there, "
                f"{values[1]} in process 0; start all with the same command, data and code"
            )
    client.wait_at_barrier("ddpm_jax/agreed", WAIT * 1000)  # all have read what they need
    if found:
        release()
        raise ConfigError(found)


def code() -> str:
    """A digest of the package's source."""
    sha = hashlib.sha256()
    folder = Path(ddpm_jax.__file__).parent
    for path in sorted(folder.rglob("*.py")):
        sha.update(f"{path.relative_to(folder).as_posix()}\n".encode() + path.read_bytes())
    return sha.hexdigest()


def _first_difference(a: Any, b: Any) -> list[str]:
    """The keys that lead to the first value that is not the same in both."""
    if not (isinstance(a, dict) and isinstance(b, dict)):
        return []
    for key in sorted(a.keys() | b.keys()):
        if a.get(key) != b.get(key):
            return [key, *_first_difference(a.get(key), b.get(key))]
    return []


def _value(tree: Any, name: list[str]) -> Any:
    return functools.reduce(lambda inner, key: (inner or {}).get(key), name, tree)
