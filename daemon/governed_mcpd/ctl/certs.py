"""`gate certs`: certificates for balancers and remote gates. It needs no daemon, and never prints a key."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from governed_mcpd.ctl.output import Failure, print_json, print_table
from governed_mcpd.ctl.session import Json

if TYPE_CHECKING:
    from governed_mcpd.gate.remote.authority import Authority, Issued

app = typer.Typer(help="Certificates with which local gates and remote gates know each other.", no_args_is_help=True)
Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The authority's directory; its key stays there.")]
Days = Annotated[int, typer.Option(min=1, max=825, help="How long a certificate is valid.")]
_SOON = 30  # days


@app.command("create")
def create(
    directory: Directory,
    gates: Annotated[
        list[str] | None,
        typer.Option("--gate", metavar="NAME=HOST[,HOST…]", help="A remote gate, and how balancers reach it."),
    ] = None,
    balancers: Annotated[
        list[str] | None, typer.Option("--balancer", metavar="NAME", help="A local gate that asks remote ones.")
    ] = None,
    days: Days = 365,
    as_json: Json = False,
) -> None:
    """Make an authority if DIR has none, and certificates for gates and balancers that have none yet.

    Copy DIR/gates/NAME to that gate's machine, and DIR/balancers/NAME to the local gate's, as its gate_tls_dir.
    """
    from governed_mcpd.gate.remote import AuthorityError, authority  # noqa: PLC0415 - slow to import

    wanted = [_named(text) for text in gates or ()]
    if not wanted and not balancers:
        raise Failure("usage", "name at least one --gate NAME=HOST or --balancer NAME")
    try:
        one = authority.load(directory) if (directory / authority.CA).exists() else authority.create(directory)
        made = [one.issue_gate(name, hosts, days) for name, hosts in wanted if _new(one, authority.GATES, name)]
        made += [one.issue_balancer(name, days) for name in balancers or () if _new(one, authority.BALANCERS, name)]
    except AuthorityError as error:
        raise Failure("certificates", str(error)) from None
    _show(made, as_json, "every one of these exists already (gate certs renew makes them anew)")


@app.command("renew")
def renew(
    directory: Directory,
    within: Annotated[int, typer.Option(metavar="DAYS", min=0, help="Those that end in so many days.")] = _SOON,
    days: Days = 365,
    as_json: Json = False,
) -> None:
    """Make certificates that end soon anew, with new keys. Copy them again: running gates take them up as they are."""
    from governed_mcpd.gate.remote import AuthorityError, authority  # noqa: PLC0415 - slow to import

    try:
        one = authority.load(directory)
        due = [
            issued
            for issued in authority.everything(directory)
            if issued.role != "authority" and issued.days_left() <= within
        ]
        made = [one.renew(issued, days) for issued in due]
    except AuthorityError as error:
        raise Failure("certificates", str(error)) from None
    _show(made, as_json, f"none ends within {within} days")


@app.command("show")
def show(directory: Directory, as_json: Json = False) -> None:
    """The authority and all that it issued: for what, for whom, until when."""
    from governed_mcpd.gate.remote import AuthorityError, authority  # noqa: PLC0415 - slow to import

    try:
        found = list(authority.everything(directory))
    except AuthorityError as error:
        raise Failure("certificates", str(error)) from None
    _show(found, as_json, "")


def _named(text: str) -> tuple[str, list[str]]:
    name, equals, hosts = text.partition("=")
    found = [host.strip() for host in hosts.split(",") if host.strip()]
    if not name or (equals and not found):
        raise Failure("usage", f"--gate {text!r}: expected NAME=HOST[,HOST…], for example one=gate1.example,10.0.0.2")
    return name, found or [name]


def _new(authority: "Authority", kind: str, name: str) -> bool:
    return not (authority.directory / kind / name / "own.pem").exists()


def _show(found: "list[Issued]", as_json: bool, empty: str) -> None:
    if as_json:
        print_json({"certificates": [_plain(issued) for issued in found]})
        return
    rows = [
        [str(issued.directory), issued.role, ", ".join(issued.names) or "-", f"{issued.ends:%Y-%m-%d}", _left(issued)]
        for issued in found
    ]
    print_table(("directory", "for", "hosts", "ends", "days left"), rows, empty=empty)


def _left(issued: "Issued") -> str:
    left = issued.days_left()
    return f"{left} (renew it)" if left <= _SOON else str(left)


def _plain(issued: "Issued") -> dict[str, Any]:
    return {
        "directory": str(issued.directory),
        "for": issued.role,
        "hosts": list(issued.names),
        "begins": issued.begins.isoformat(),
        "ends": issued.ends.isoformat(),
        "days_left": issued.days_left(),
    }
