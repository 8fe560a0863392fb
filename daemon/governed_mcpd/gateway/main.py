"""`governedctl mcp`: starts the server, opens a session with the daemon, and carries messages until one side ends."""

from governed_mcpd.gateway import server as servers
from governed_mcpd.gateway.options import EXIT_FAILED, Options, parse
from governed_mcpd.gateway.run import complain, run_arguments, runtime_dir
from governed_mcpd.launcher.notices import say
from governed_mcpd.launcher.options import UsageError


def mcp_command(arguments: list[str]) -> int:
    """Runs what the arguments (without `mcp`) say; the exit code, as `--help` tells them."""
    try:
        options = parse(arguments)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else EXIT_FAILED
    if options.upstream:
        from governed_mcpd.gateway.remote import serve  # noqa: PLC0415 - an HTTP server is not needed for stdio

        return serve(options)

    return _stdio(options)


def _stdio(options: Options) -> int:
    try:
        started = servers.start(run_arguments(options))
    except servers.NotStarted as failure:
        return failure.code
    # After the fork: protobuf and the patterns are not the launcher's.
    from governed.v1 import control_pb2 as pb  # noqa: PLC0415
    from governed_mcpd.control.client import ControlError  # noqa: PLC0415
    from governed_mcpd.gateway.link import open_link  # noqa: PLC0415
    from governed_mcpd.gateway.loop import Loop  # noqa: PLC0415

    try:
        request = pb.McpOpenRequest(sandbox=started.sandbox)
        link = open_link(runtime_dir(options), nested=options.nested, request=request)
    except (ControlError, UsageError) as error:
        complain(str(error))
        started.stop()
        return EXIT_FAILED
    if not link.opened.known and not options.quiet:
        say(f"governed: there is no Tool document for the server {options.server}: none of its tools can be called")
    started.start()
    try:
        Loop(link, started).run()
    finally:
        code = started.stop()
        link.close()
    return code if code >= 0 else 128 - code
