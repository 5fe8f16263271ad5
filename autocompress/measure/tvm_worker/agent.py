"""A board's side of TVM's RPC: a server that outlives crashes of what it runs, and tells what the board is."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable

import tvm
import tvm_ffi
from tvm.rpc import server as tvm_server

from autocompress.core.errors import DeviceLostError, TargetError
from autocompress.measure import agent_facts
from autocompress.measure.machine_state import machine_state
from autocompress.measure.tvm_worker import targets

#: Prefix of the functions that a client finds here besides TVM's own.
PREFIX = "autocompress."
_GPUS = ("cuda", "opencl", "vulkan")
#: Addresses to listen at that name no network; a tracker then tells the one that it sees.
_EVERYWHERE = ("", "0.0.0.0", "::")


def serve(
    host: str, port: int, *, tracker: tuple[str, int] | None, key: str, on_message: Callable[[str], None]
) -> None:
    """Answer one client after another until the process is ended; each is served by a process of its own.

    Args:
        host: address to listen at.
        port: likewise; 0 for any that is free.
        tracker: where to register; nowhere where None.
        key: to register under.
        on_message: told where it listens, and of crashes.

    Raises:
        TargetError: the address cannot be listened at.
        DeviceLostError: the tracker does not answer.
    """
    # TVM would put its threads on the first cores, whatever cores a client asks for.
    os.environ["TVM_BIND_THREADS"] = "0"
    tvm_server.logger.setLevel(logging.WARNING)
    listening = _listen(host, port)
    port = listening.getsockname()[1]
    if tracker is not None:
        _check_tracker(tracker)
    for function in (hello, configure, state):
        tvm_ffi.register_global_func(PREFIX + function.__name__, function, override=True)
    registered = f", registered at {tracker[0]}:{tracker[1]} as {key!r}" if tracker else ""
    on_message(f"TVM {tvm.__version__} listens at {host}:{port}{registered}. Ctrl-C ends it.")
    home = os.getcwd()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while True:
            try:
                # TVM's own `Server` ends for good when what it runs crashes.
                tvm_server._listen_loop(listening, port, key, tracker, None, None if host in _EVERYWHERE else host)
            except RuntimeError as error:
                on_message(f"{str(error).strip().splitlines()[-1]}: waiting for the next client.")
                os.chdir(home)
    finally:
        for process in multiprocessing.active_children():
            # In the middle of a kernel it hears nothing else.
            process.kill()


def hello() -> str:
    """What this board and its TVM are; JSON."""
    found = {
        "version": tvm.__version__,
        "triple": targets.host_triple(),
        "cpu": str(tvm.target.codegen.llvm_get_system_cpu()),
        "gpus": [kind for kind in _GPUS if tvm.device(kind, 0).exist],
        "facts": agent_facts.facts(),
    }
    return json.dumps(found)


def configure(wanted: str) -> str:
    """Set the ``threads`` of a kernel and the ``affinity`` (cores; null for all) of this client's process.

    Args:
        wanted: JSON.

    Returns:
        What is wrong, or nothing.
    """
    fields = json.loads(wanted)
    # Read when the first kernel starts its threads.
    os.environ["TVM_NUM_THREADS"] = str(fields["threads"])
    if fields["affinity"] is None:
        return ""
    missing = sorted(set(fields["affinity"]) - os.sched_getaffinity(0))
    if missing:
        return f"cores {','.join(map(str, missing))} cannot be used there"
    os.sched_setaffinity(0, fields["affinity"])
    return ""


def state() -> str:
    """What the machine does at this moment; JSON, see :func:`autocompress.measure.machine_state.machine_state`."""
    return json.dumps(machine_state())


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(1)
    except OSError as error:
        raise TargetError(f"{host}:{port} cannot be listened at: {error.strerror or error}.") from error
    return listening


def _check_tracker(tracker: tuple[str, int]) -> None:
    try:
        socket.create_connection(tracker, timeout=10.0).close()
    except OSError as error:
        raise DeviceLostError(
            f"There is no tracker at {tracker[0]}:{tracker[1]}: {error.strerror or error}; "
            "`python -m tvm.exec.rpc_tracker` starts one."
        ) from error
