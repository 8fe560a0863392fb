"""A launcher that lies, inside a sandbox or outside: speaks the control protocol as it likes. Standard library only.

subject.py DIRECTORY ATTACK [ARGUMENT]... prints one line per step: "STEP: what the daemon said".
"""

import os
import signal
import socket
import sys
import time
from collections.abc import Callable

sys.path.insert(0, os.environ["CHECKOUT"] + "/daemon")

from governed_mcpd.launcher import protocol


def connect(name: str) -> protocol.Stream:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(30)
    connection.connect(os.path.join(RUNTIME, name))
    connection.setblocking(True)
    return protocol.Stream(connection.detach())


def say(step: str, what: object) -> None:
    print(f"{step}: {what}", flush=True)


def ask(stream: protocol.Stream, message: bytes) -> "dict[int, list[int | bytes]]":
    stream.send(message)
    return stream.receive()


def plan(stream: protocol.Stream, nested: bool, profile: str, cwd: str, home: str) -> protocol.RunPlan:
    return protocol.run_plan(
        ask(
            stream,
            protocol.run_request(
                profile=profile, agent="", task="", argv=[b"x"], cwd=os.fsencode(cwd), home=os.fsencode(home),
                environment=[], server="", nested=nested,
            ),
        )
    )  # fmt: skip


def tried(step: str, stream: protocol.Stream, message: bytes) -> bool:
    try:
        reply = ask(stream, message)
        say(step, f"accepted {sorted(reply)}")
    except (protocol.DaemonError, protocol.ProtocolError, OSError) as error:
        say(step, f"refused {error}")
        return False
    return True


def append(path: str) -> None:
    try:
        with open(path, "a") as file:
            file.write("attack\n")
        say(f"write {path}", "worked")
    except OSError as error:
        say(f"write {path}", f"refused {error.errno}")


def child(profile: str, cwd: str, home: str, *paths: str) -> None:
    """Becomes a child Subject with places of its own choice; a grandchild that leaves its session writes, too."""
    stream = connect("sandbox.sock")
    made = plan(stream, True, profile, cwd, home)
    say("plan", made.sandbox)
    if os.fork() == 0:
        tried("adopt", connect("sandbox.sock"), protocol.adopt_request(made.token))
        for path in paths:
            append(path)
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                for path in paths:
                    append(path)
            os._exit(0)
        os.wait()
        os._exit(0)
    os.wait()
    time.sleep(0.5)


def outlive(profile: str, cwd: str, home: str, path: str) -> None:
    """A daemon of a child Subject that goes on after the child's launcher has closed its connection."""
    stream = connect("sandbox.sock")
    made = plan(stream, True, profile, cwd, home)
    if os.fork() == 0:
        tried("adopt", connect("sandbox.sock"), protocol.adopt_request(made.token))
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            os.close(stream.descriptor)
            while True:
                append(path)
                time.sleep(0.05)
        os._exit(0)
    os.wait()
    time.sleep(1)
    os.close(stream.descriptor)
    time.sleep(2)
    before = os.stat(path).st_size
    time.sleep(1)
    say("afterwards", "ended" if os.stat(path).st_size == before else "goes on")


def climb(narrow: str, wide: str, cwd: str, home: str, path: str) -> None:
    """Plans a wide child from the main Subject and has a process of a narrow one adopted by it."""
    first = connect("sandbox.sock")
    made = plan(first, True, narrow, cwd, home)
    second = connect("sandbox.sock")
    wider = plan(second, True, wide, cwd, home)
    if os.fork() == 0:
        tried("adopt narrow", connect("sandbox.sock"), protocol.adopt_request(made.token))
        append(path)
        tried("adopt wide", connect("sandbox.sock"), protocol.adopt_request(wider.token))
        append(path)
        os._exit(0)
    os.wait()


def twice(profile: str, cwd: str, home: str) -> None:
    stream = connect("sandbox.sock")
    made = plan(stream, True, profile, cwd, home)
    for step in ("first", "second"):
        if os.fork() == 0:
            tried(step, connect("sandbox.sock"), protocol.adopt_request(made.token))
            os._exit(0)
        os.wait()


def request(name: str, number: str) -> None:
    """Any request by its field number, on any of the daemon's sockets."""
    try:
        stream = connect(name)
    except OSError as error:
        say("connect", f"refused {error.errno}")
        return
    say("connect", "worked")
    tried("request", stream, protocol._bytes(int(number), b""))


def token(name: str, text: str) -> None:
    """A token that was guessed, or stolen."""
    tried("adopt", connect(name), protocol.adopt_request(text))


# ---- outside: launchers


def launch(step: str, profile: str) -> None:
    """Asks for a sandbox and has it adopted in a wrong way."""
    stream = connect("control.sock")
    made = plan(stream, False, profile, os.getcwd(), os.environ["HOME"])
    if step == "sibling":
        # not a child of who asked: its parent is this process's child
        if os.fork() == 0:
            if os.fork() == 0:
                tried("adopt", connect("control.sock"), protocol.adopt_request(made.token))
                os._exit(0)
            os.wait()
            os._exit(0)
        os.wait()
    elif step == "myself":
        tried("adopt", connect("control.sock"), protocol.adopt_request(made.token))
    elif step == "nested":
        if os.fork() == 0:
            tried("adopt", connect("sandbox.sock"), protocol.adopt_request(made.token))
            os._exit(0)
        os.wait()
    elif os.fork() == 0:
        connection = connect("control.sock")
        if tried("adopt", connection, protocol.adopt_request(made.token)):
            _listen(step, connection, made)
        if step == "twice":
            tried("again", connect("control.sock"), protocol.adopt_request(made.token))
        os._exit(0)
    else:
        os.wait()
    say("done", made.sandbox)


def _listen(step: str, connection: protocol.Stream, made: protocol.RunPlan) -> None:
    if step in ("file", "minus", "huge", "eventfd", "without"):
        import prctl

        if step != "without":
            prctl.set_no_new_privs(1)
        number = {
            "file": 0,
            "minus": -1 & 0xFFFF_FFFF_FFFF_FFFF,
            "huge": 2**31 - 1,
            "eventfd": os.eventfd(0),
            "without": 0,
        }[step]
        tried("listen", connection, protocol.listen_request(number))
    elif step == "garbage":
        connection.send(b"\xff" * 100)
        tried("listen", connection, b"\x00")
    elif step == "dies":
        os._exit(0)


ATTACKS: "dict[str, Callable[..., None]]" = {
    "child": child, "outlive": outlive, "climb": climb, "twice": twice, "request": request, "token": token,
    "launch": launch,
}  # fmt: skip
RUNTIME = sys.argv[1]
ATTACKS[sys.argv[2]](*sys.argv[3:])
