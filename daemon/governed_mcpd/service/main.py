"""The program governed-mcpd.

What it does after a daemon's end, and when the package is removed, goes without the daemon's modules: importing those
takes most of a second, and half a minute where processors are emulated, of the minute that systemd gives a stop.
"""

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from governed_mcpd import __version__, config, imports
from governed_mcpd.service import exits

if TYPE_CHECKING:
    from governed_mcpd.grant.seal import Seal

_OVERRIDES = ("runtime_dir", "state_dir", "policy_dir", "seal", "group", "admin_group", "log_level")


def main(choose: "Callable[[config.Config], Seal] | None" = None) -> int:
    """The console script. `choose` says which seal there is."""
    options = _options(sys.argv[1:])
    if options.after_stop:
        return _after_stop()
    if options.unload_seal:
        return _unload_seal()
    try:
        settings = config.load(options.config, {key: getattr(options, key) for key in _OVERRIDES})
    except config.ConfigError as error:
        print(f"governed-mcpd: {error}", file=sys.stderr)
        return exits.CONFIG
    logging.basicConfig(level=settings.log_level.upper(), format="%(levelname)s %(name)s: %(message)s")
    with imports.for_good():
        from governed_mcpd.service.daemon import run  # noqa: PLC0415 - see above

    return run(settings, choose)


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="governed-mcpd",
        description="Pauses every side effect of sandboxed agents until the gate approves it. Runs in the foreground.",
    )
    parser.add_argument("--config", metavar="FILE", help=f"configuration file (default: {config.DEFAULT_FILE})")
    parser.add_argument("--runtime-dir", metavar="D", help="sockets and scratch directories")
    parser.add_argument("--state-dir", metavar="S", help="journal and applied policies")
    parser.add_argument("--policy-dir", metavar="P", help="policies to begin with, until others are applied")
    parser.add_argument("--seal", choices=("required", "best-effort"), help="whether to run without a BPF LSM")
    parser.add_argument("--group", metavar="G", help="who may run sandboxes (name or number)")
    parser.add_argument("--admin-group", metavar="G", help="who may apply policy, approve and kill (name or number)")
    parser.add_argument("--log-level", choices=("debug", "info", "warning", "error"))
    # For ExecStopPost= of the unit: ends what a daemon that was killed could not end.
    parser.add_argument("--after-stop", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--unload-seal", action="store_true", help="take the seal out of the kernel, and end")
    parser.add_argument("--version", action="version", version=f"governed-mcpd {__version__}")
    return parser.parse_args(arguments)


def _after_stop() -> int:
    """A stop that is no restart ends sandboxes, also when the daemon is dead or did not end in time. After a crash they
    wait for the next daemon."""
    from governed_mcpd.kernel.cgroup import find  # noqa: PLC0415 - see above
    from governed_mcpd.subjects import units  # noqa: PLC0415 - see above
    from governed_mcpd.subjects.cells import Scopes  # noqa: PLC0415 - see above

    # Not `governs`: with NotifyAccess=main what runs beside the daemon has no NOTIFY_SOCKET. That systemd stops the
    # unit in which this runs says more.
    if units.job() == units.STOP:
        Scopes(find()).close()
    return 0


def _unload_seal() -> int:
    """For the removal of the package: without a daemon and without sandboxes nobody needs the seal any more."""
    from governed_mcpd.grant import pins  # noqa: PLC0415 - see above
    from governed_mcpd.grant.seal import SealFailed  # noqa: PLC0415 - see above

    try:
        pins.unload()
    except (SealFailed, OSError) as failure:
        print(f"governed-mcpd: {failure}", file=sys.stderr)
        return exits.START
    return 0


if __name__ == "__main__":
    sys.exit(main())
