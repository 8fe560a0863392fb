"""`governed-resolver`: asks name servers for sandboxes, without privileges. The daemon connects to its unix socket."""

import argparse
import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence

from governed_mcpd import __version__, config, place
from governed_mcpd.resolver.judged import Judged, is_daemon
from governed_mcpd.resolver.upstreams import Upstreams, shown

log = logging.getLogger("governed-resolver")
_USAGE = 2
_KEYS = ("runtime_dir", "resolver_user", "upstreams", "log_level")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 after SIGTERM or SIGINT, 1 when it cannot serve, 2 for wrong options or configuration."""
    options = _parser().parse_args(arguments)
    try:
        settings = config.load(options.config, {key: getattr(options, key) for key in _KEYS})
    except config.ConfigError as error:
        return _fail(str(error), _USAGE)
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    os.umask(0o077)
    try:
        if os.geteuid() == 0:
            place.prepare_as_root("resolver", settings.runtime_dir, settings.resolver_user)
            place.drop_to(settings.resolver_user)
        elif options.resolver_user is not None and os.geteuid() != place.ids_of(options.resolver_user)[0]:
            return _fail(f"--user {options.resolver_user}: only root can become another user", _USAGE)
        path, lock = place.claim_socket("resolver", settings.runtime_dir)
    except place.PlaceError as error:
        return _fail(str(error), 1)
    try:
        # The daemon is root and needs no permission bits; nobody but this user gets any.
        os.umask(0o177)
        asyncio.run(_serve(path, Upstreams(settings.upstreams)))
    except OSError as error:
        return _fail(f"{path}: {error.strerror}", 1)
    finally:
        os.close(lock)
    return 0


async def _serve(path: str, upstreams: Upstreams) -> None:
    trusted = frozenset((0, os.geteuid()))
    current: list[Judged] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not is_daemon(writer, trusted):
            writer.close()
            return
        for earlier in current:
            earlier.close()  # a daemon that was killed: the one that comes takes its place
        judged = Judged(upstreams, reader, writer)
        current[:] = [judged]
        log.info("the daemon is there")
        await judged.serve()
        log.info("the daemon is gone: nobody is answered")

    server = await asyncio.start_unix_server(connected, path)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    asked = " ".join(map(shown, upstreams.current())) or upstreams.reason
    log.info("serving as %s on %s; asks %s", place.who(), path, asked)
    place.notify("READY=1")
    await stop.wait()
    place.notify("STOPPING=1")
    server.close()
    for judged in current:
        judged.close()
    with contextlib.suppress(OSError):
        os.unlink(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="governed-resolver",
        description="Answers the DNS of sandboxes for governed-mcpd. Stays in the foreground; SIGTERM ends it.",
    )
    parser.add_argument("--runtime-dir", metavar="D", help="where resolver.sock lies (default /run/governed-mcpd)")
    parser.add_argument(
        "--upstreams", metavar="SERVERS", help="name servers to ask, ADDRESS#PORT … (default: those of resolv.conf)"
    )
    parser.add_argument("--config", metavar="FILE", help=f"configuration (default {config.DEFAULT_FILE})")
    parser.add_argument("--user", dest="resolver_user", metavar="NAME", help="when started by root: the user to become")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    parser.add_argument("--version", action="version", version=__version__)
    return parser


def _fail(message: str, status: int) -> int:
    print(f"governed-resolver: error: {message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
