"""`knowlex serve`: the HTTP API, and the work on the queue beside it, in one process."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib.util import find_spec
from socket import socket
from typing import TYPE_CHECKING, Any

import click

from knowlex.cli import exit_codes
from knowlex.cli.door import INSTALL_SERVER, Command, Door, pass_door
from storage.errors import ConfigurationError, KnowlexError, NotFoundError

if TYPE_CHECKING:
    from knowlex.facade import Knowlex
    from knowlex.server.running import Server


@click.command(cls=Command)
@click.option("--host", help="The address to listen at: setting `serve_host`, which is this machine alone.")
@click.option(
    "--port", type=click.IntRange(0, 65535), metavar="N", help="The port: setting `serve_port`, 8642. 0: any."
)
@click.option(
    "--allowed-host",
    "allowed_hosts",
    metavar="NAME",
    multiple=True,
    help="A name that the server may be called by, as of a proxy before it; as often as needed.",
)
@pass_door
def serve(door: Door, host: str | None, port: int | None, allowed_hosts: tuple[str, ...]) -> int:
    """Serve the HTTP API until the process is told to end, and process files that wait meanwhile.

    Beyond this machine nothing is served without a token: see `knowlex token create`. docs/http.md is the reference.
    Exit code 0 when it was told to end, 4 where it cannot begin.

    \b
    Example:
      knowlex serve
      knowlex serve --host 0.0.0.0 --allowed-host search.example.org
    """
    given: dict[str, Any] = {"serve_host": host, "serve_port": port, "allowed_hosts": allowed_hosts or None}
    with door.open(**given) as kb:
        return _serve(door, kb)


def _serve(door: Door, kb: Knowlex) -> int:
    _require_extra()
    from knowlex.cli.stopping import stopping
    from knowlex.server.app import create_app
    from knowlex.server.background import Background
    from knowlex.server.guard import Names
    from knowlex.server.running import Server, listening, url_of

    chosen = kb.configuration
    if not Names.of(chosen.serve_host, chosen.allowed_hosts).local:
        _require_token(kb)
    kb.database  # noqa: B018 - it is made, or refused, before anybody may ask
    listener = listening(chosen.serve_host, chosen.serve_port)
    background = Background(kb)
    app = create_app(kb, host=chosen.serve_host, allowed_hosts=chosen.allowed_hosts, background=background)
    server = Server(app, timeout_s=chosen.request_timeout_s, on_start=lambda: _announce(door, kb, url_of(listener)))

    def stop() -> None:
        background.stop()
        app.state.stopping.set()
        server.stop()

    with stopping(stop, background.abandon):
        _run(server, listener)
    _note_waiting(door, kb)
    return exit_codes.OK


def _note_waiting(door: Door, kb: Knowlex) -> None:
    """Say how many files wait for the next run, where that can be told."""
    from knowlex import drain

    with suppress(KnowlexError):
        if waiting := drain.waiting(kb.database, None):
            door.note_waiting("stopped", waiting)


def _run(server: Server, listener: socket) -> None:
    try:
        server.run(sockets=[listener])
    except SystemExit as error:  # uvicorn's way to say that the app did not begin; what went wrong, it swallows
        raise ConfigurationError("serve: could not begin; knowlex health says what is wrong") from error


def _announce(door: Door, kb: Knowlex, url: str) -> None:
    if door.json:
        door.answer({"url": url, "database": str(kb.path), "pid": os.getpid()})
    door.say(f"knowlex serves {kb.path} at {url} (Ctrl-C ends it)")


def _require_token(kb: Knowlex) -> None:
    try:
        any_token = kb.tokens.any()
    except NotFoundError:  # no database, and so no token; nor is one made for a server that is refused
        any_token = False
    if not any_token:
        raise ConfigurationError(
            "serve: without a token only this machine is served; make one with knowlex token create, or leave out"
            " --host and --allowed-host"
        )


def _require_extra() -> None:
    for package in ("fastapi", "mcp", "prometheus_client", "python_multipart", "uvicorn"):
        if find_spec(package) is None:
            raise ConfigurationError(f"serve: {package} is not installed; {INSTALL_SERVER}")
