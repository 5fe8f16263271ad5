"""``autocompress agent``."""

from __future__ import annotations

from typing import Annotated

import typer

from autocompress.measure.transports.tvm_address import USUAL_PORT, parse_host_port

LOOPBACK = "127.0.0.1"


def agent(
    tvm: Annotated[bool, typer.Option("--tvm", help="Serve TVM's RPC.")] = False,
    host: Annotated[str, typer.Option(metavar="ADDRESS", help="Listen at; 0.0.0.0 is every network.")] = LOOPBACK,
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="0 is any that is free.")] = USUAL_PORT,
    tracker: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Register there, for several boards of one kind.")
    ] = None,
    key: Annotated[str | None, typer.Option(metavar="KEY", help="To register under; says what board it is.")] = None,
) -> None:
    """Let other machines compile for this one, run their code here and time it; Ctrl-C ends it.

    Whoever reaches the address can run anything here: open it to networks that you trust.
    """
    from autocompress.core.errors import UserError
    from autocompress.measure.runtimes.tvm_link import need_tvm, spare_torch

    if not tvm:
        raise UserError("Say what to serve: --tvm. Devices over ssh://user@host need no agent to be started.")
    if (tracker is None) != (key is None):
        raise UserError("--tracker and --key go together: where to register, and under which name.")
    registry = None if tracker is None else parse_host_port(tracker)
    need_tvm()
    spare_torch()
    from autocompress.measure.tvm_worker.agent import serve

    if host not in (LOOPBACK, "localhost", "::1"):
        typer.echo(f"Whoever reaches {host}:{port} can run code on this machine.", err=True)
    serve(host, port, tracker=registry, key=key or "", on_message=typer.echo)
