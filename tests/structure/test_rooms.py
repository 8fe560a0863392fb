"""Which room may know which: read from the source, not from what happens to be imported when."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2] / "daemon" / "governed_mcpd"
MODULES = sorted(path for path in ROOT.rglob("*.py"))
PRIVILEGED = {"kernel", "pause", "subjects", "supervisor", "calls", "service", "grant", "sandbox", "launcher", "names"}
SHARED = {"nouns", "policy", "journal", "control", "config", "imports", "place", "governed"}


@dataclass(frozen=True)
class Import:
    """`line` of a module says that it needs `what` (a dotted name)."""

    line: int
    what: str


def imports(path: Path) -> Iterator[Import]:
    """Everything that the module imports, inside functions as well."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here"
            for alias in node.names:
                yield Import(node.lineno, f"{node.module}.{alias.name}")


def room(path: Path) -> str:
    """The room of a module; a module that stands alone (config) is its own."""
    parts = path.relative_to(ROOT).parts
    return parts[0] if len(parts) > 1 else path.stem


def rooms_known(path: Path) -> dict[str, int]:
    """The other rooms that a module imports from, with a line."""
    found = {}
    for one in imports(path):
        parts = one.what.split(".")
        if parts[0] == "governed_mcpd" and len(parts) > 1:
            found[parts[1]] = one.line
        elif parts[0] == "governed":
            found["governed"] = one.line
    found.pop(room(path), None)
    found.pop("__version__", None)
    return found


# Each room, and the rooms that it may import from. What is missing here may be imported by nobody but itself.
MAY_KNOW = {
    "nouns": {"governed"},
    "kernel": set(),
    "grant": {"nouns", "kernel"},
    "sandbox": {"kernel"},
    "pause": {"nouns", "kernel", "grant"},
    "policy": {"nouns"},
    "journal": {"nouns", "policy"},
    "control": {"governed"},
    "config": set(),
    "subjects": {"nouns", "kernel", "grant", "pause", "policy", "governed"},
    "supervisor": {"nouns", "kernel", "grant", "pause", "policy", "journal", "subjects", "governed"},
    "calls": {"nouns", "kernel", "policy", "journal", "control", "subjects", "supervisor", "governed"},
    "names": {"nouns", "kernel", "pause", "journal", "control", "subjects", "supervisor", "governed"},
    "service": SHARED | {"kernel", "grant", "pause", "sandbox", "subjects", "supervisor", "calls", "names"},
    "launcher": {"kernel", "sandbox", "config"},
    "trace": {"kernel"},  # a witness that the enforcing rooms know nothing of, nor it of them
    "gate": {"nouns", "policy", "journal", "config", "place", "governed", "imports"},
    "place": set(),
    "imports": set(),
    "resolver": {"control", "config", "place", "governed"},  # has the network: knows nothing of what decides
    # Runs as the user, between client and server; of the gate it has the patterns and the reader of JSON (see below).
    "gateway": {"journal", "control", "launcher", "gate", "governed"},
    "learning": {"nouns", "policy"},  # reads what happened, and proposes: it decides nothing, and changes nothing
    "ctl": {"nouns", "kernel", "policy", "journal", "control", "config", "governed", "launcher", "sandbox", "gateway",
            "trace", "learning"},
}  # fmt: skip


# One module, one room that its own may not know, and the reason.
EXCEPTIONS = {
    (
        "ctl/policies.py",
        "gate",
    ): "validate compiles a constitution as the gate does, without a gate; imported only then",
    ("ctl/certs.py", "gate"): "makes the certificates that gates check, without a gate; imported only then",
    ("ctl/gate.py", "gate"): "eval and calibrate measure the gate's layers in this process; imported only then",
}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_knows_only_what_it_may(path: Path) -> None:
    here = room(path)
    if here == "__init__":
        assert rooms_known(path) == {}
        return
    known = rooms_known(path)
    name = str(path.relative_to(ROOT))
    allowed = MAY_KNOW[here] | {other for module, other in EXCEPTIONS if module == name}
    beyond = {other: line for other, line in known.items() if other not in allowed}
    assert beyond == {}, f"{path.relative_to(ROOT)} (room {here}) imports from rooms that it must not know (room: line)"


def test_the_privileged_rooms_and_the_gate_do_not_know_each_other() -> None:
    for here in PRIVILEGED:
        assert "gate" not in MAY_KNOW[here]
    assert MAY_KNOW["gate"] & PRIVILEGED == set()
    assert MAY_KNOW["gate"] <= SHARED


def test_the_resolver_knows_neither_what_decides_nor_what_has_rights() -> None:
    assert MAY_KNOW["resolver"] & (PRIVILEGED | {"gate", "policy", "journal"}) == set()
    for here in PRIVILEGED | {"gate"}:
        assert "resolver" not in MAY_KNOW[here]


def test_ctl_and_launcher_know_neither_gate_nor_daemon() -> None:
    for here in ("ctl", "launcher"):
        assert MAY_KNOW[here] & {"gate", "subjects", "supervisor", "service"} == set()


def test_the_gateway_has_only_the_gates_reading() -> None:
    """What decides is at the gate and nowhere else: no layer, no model, no constitution runs in the user's process."""
    for path in MODULES:
        if room(path) == "gateway":
            for one in imports(path):
                if one.what.startswith("governed_mcpd.gate."):
                    allowed = one.what.startswith(("governed_mcpd.gate.text", "governed_mcpd.gate.strictjson"))
                    assert allowed, f"{path}:{one.line} imports {one.what}"


def test_every_room_is_in_the_table() -> None:
    rooms = {room(path) for path in MODULES} - {"__init__", "__main__"}
    assert rooms == set(MAY_KNOW)


# ctypes outside kernel/, with the reason.
CTYPES = {
    "grant/layout.py": "lays out what daemon and kernel programs share; a test compares it with the object's BTF",
    "ctl/probes.py": "doctor tries what the kernel can in processes of its own, with filters and rulesets made for it",
    "pause/resolve.py": "makes the array of group ids once that kernel.calls.set_fs_groups takes",
}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_only_kernel_speaks_by_number(path: Path) -> None:
    name = str(path.relative_to(ROOT))
    numbers = [one.line for one in imports(path) if one.what.split(".")[0] == "ctypes"]
    if room(path) == "kernel" or name in CTYPES:
        return
    assert numbers == [], f"{name} imports ctypes: what speaks to the kernel belongs to kernel/"


def test_the_exceptions_are_used() -> None:
    for name, other in EXCEPTIONS:
        assert other in rooms_known(ROOT / name)
    for name in CTYPES:
        assert any(one.what.startswith("ctypes") for one in imports(ROOT / name)), name


OUTSIDE = {
    "pydantic": {"policy", "config"},
    "pydantic_core": {"policy", "config"},
    "yaml": {
        "policy",
        "gate",
        "ctl",
        "learning",
    },  # the gate reads its own patterns; ctl shows documents as they are written
    "grpc": {"supervisor", "gate"},
    "grpc_health": {"gate"},
    "grpc_reflection": {"gate"},
    "re2": {"gate"},
    "cedarpy": {"gate"},
    "jsonschema_rs": {"gate"},
    "pyseccomp": {"sandbox", "service", "ctl", "trace"},
    "bcc": {"trace"},
    "prctl": {"launcher", "gateway"},
    "jeepney": {"subjects"},
    "systemd": {"subjects", "journal", "place"},
    "dns": {"resolver"},
    "blake3": {"journal", "policy", "supervisor", "subjects", "calls", "gateway", "learning"},
    "httpx2": {"gateway"},
    "uvicorn": {"gateway"},
    "cryptography": {"journal", "gate"},  # signatures of checkpoints; certificates of gates
    "typer": {"ctl"},
    "rich": {"ctl"},
}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_packages_stay_in_their_rooms(path: Path) -> None:
    for one in imports(path):
        package = one.what.split(".")[0]
        if package in OUTSIDE:
            assert room(path) in OUTSIDE[package], f"{path.relative_to(ROOT)}:{one.line} imports {package}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    text = path.read_text()
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring, f"{path.relative_to(ROOT)} has no docstring"
    assert len(text.splitlines()) <= 450, f"{path.relative_to(ROOT)} is long: it does more than one thing"


# Debian's alone: PyPI's package of that name is another one, and never to be listed.
NOT_FROM_PYPI = {"bcc"}


def test_only_the_standard_library_and_what_pyproject_names() -> None:
    project = (ROOT.parents[1] / "pyproject.toml").read_text().lower()
    distributions = {"yaml": "pyyaml", "google": "protobuf", "re2": "google-re2", "prctl": "python-prctl",
                     "systemd": "systemd-python", "grpc_health": "grpcio-health-checking", "pydantic_core": "pydantic",
                     "grpc_reflection": "grpcio-reflection", "jsonschema_rs": "jsonschema-rs",
                     "grpc": "grpcio", "dns": "dnspython"}  # fmt: skip
    for path in MODULES:
        for one in imports(path):
            package = one.what.split(".")[0]
            if package not in sys.stdlib_module_names | NOT_FROM_PYPI | {"governed", "governed_mcpd"}:
                assert distributions.get(package, package) in project, f"{path}:{one.line} imports {package}"
