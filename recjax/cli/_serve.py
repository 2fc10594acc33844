"""``recjax serve``: an artifact over HTTP. Imports NumPy and a web server, no JAX."""

import argparse
import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from recjax.cli._values import Parser
from recjax.errors import InputError

TOKEN = "RECJAX_TOKEN"


def parser() -> argparse.ArgumentParser:
    """The options of the command."""
    found = Parser(
        "recjax serve",
        description="An artifact over HTTP, with a page to try it. The environment variable "
        f"{TOKEN} sets a bearer token that requests must have. SIGHUP loads the artifact anew.",
        allow_abbrev=False,
    )
    found.add_argument("artifact", type=Path, metavar="ARTIFACT", help="folder of the artifact")
    found.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine alone)")
    found.add_argument("--port", type=int, default=8000, metavar="N", help="port to listen on (default: 8000)")
    found.add_argument("--watch", action="store_true", help="load the artifact anew when it is replaced")
    found.add_argument("--quiet", action="store_true", help="no access log")
    return found


def serve(arguments: Sequence[str]) -> int:
    """Serves until a signal stops it; returns the exit code."""
    options = parser().parse_args(arguments)
    if not 0 <= options.port < 2**16:
        raise InputError(f"option --port: expected 0 to 65535, got {options.port}")
    try:
        import prometheus_client  # noqa: F401
        import uvicorn
    except ImportError as error:
        raise InputError(f"recjax serve: expected {error.name}; pip install 'recjax[serve]' installs it") from None
    from recjax.serve import App, Engine, Limits

    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(message)s")
    logging.getLogger("recjax.serve.access").disabled = options.quiet
    engine = Engine(options.artifact, Limits())
    app = App(engine, token=os.environ.get(TOKEN) or None)
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    try:
        listening = socket.create_server((options.host, options.port), family=family, backlog=2048)
    except OSError as error:
        got = f"{options.host}:{options.port} ({error.strerror})"
        raise InputError(f"option --port: expected an address that is free, got {got}") from None
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=int(engine.limits.seconds) + 5,
    )
    server = uvicorn.Server(config)

    async def run() -> None:
        loop, tasks = asyncio.get_running_loop(), set()
        if hasattr(signal, "SIGHUP"):
            loop.add_signal_handler(signal.SIGHUP, lambda: tasks.add(loop.create_task(engine.reload())))
        if options.watch:
            tasks.add(loop.create_task(engine.watch()))
        url = f"http://{options.host}:{listening.getsockname()[1]}"
        print(f"serving {options.artifact} at {url}, described at {url}/openapi.json", flush=True)
        await server.serve(sockets=[listening])
        for task in tasks:
            task.cancel()

    asyncio.run(run())
    return 0 if server.started else 2
