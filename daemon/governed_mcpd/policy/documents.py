"""The document kinds of policy, as they are written in YAML.

pydantic lives here and nowhere else: this is where text from outside comes in. Every field is strict, unknown fields
are errors, and what could not be enforced (a wildcard in the middle of a path) is refused here, when it is applied.

Paths may begin with `${cwd}` (the directory the launcher was started in), `${home}`, `${scratch}`; the daemon expands
them per sandbox and resolves symlinks.
"""

import ipaddress
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from governed_mcpd.nouns.operation import Operation
from governed_mcpd.nouns.pattern import Pattern, PatternError

VARIABLES = ("${cwd}", "${home}", "${scratch}")
NAME = r"^[a-z0-9][a-z0-9._-]{0,63}$"


def _without_variable(text: str) -> str:
    """What follows the variable that may stand at the beginning; nothing else may look like one."""
    variable = next((variable for variable in VARIABLES if text.startswith(variable)), "")
    rest = text[len(variable) :]
    if "${" in rest:
        raise ValueError(f"expected no variables but {', '.join(VARIABLES)}, and those only at the beginning")
    if "\0" in text:
        raise ValueError("expected no NUL character: no path has one")
    if len(text) > 1 and text.endswith("/"):
        raise ValueError("expected no / at the end: names of objects have none, so it would match nothing")
    return rest


def _path(text: str) -> str:
    rest = _without_variable(text)
    if rest == "" and text != "":
        return text
    if not rest.startswith("/"):
        raise ValueError(f"expected an absolute path, or one that begins with {', '.join(VARIABLES)}")
    try:
        Pattern.parse(rest)
    except PatternError as error:
        raise ValueError(str(error)) from None
    if rest.endswith("/**"):
        raise ValueError("expected a path without /**: a directory covers what lies beneath it")
    return text


def _object_pattern(text: str) -> str:
    rest = _without_variable(text)
    if text == "" or (rest not in (text, "") and not rest.startswith("/")):
        raise ValueError(f"expected a / after {', '.join(VARIABLES)}")
    try:
        Pattern.parse(rest or "/")
    except PatternError as error:
        raise ValueError(str(error)) from None
    return text


Name = Annotated[str, Field(pattern=NAME)]
PathText = Annotated[str, Field(max_length=4096), AfterValidator(_path)]
PatternText = Annotated[str, Field(max_length=4096), AfterValidator(_object_pattern)]
TierName = Literal["Classic", "AiEnhanced", "AiNative", "System"]


class Strict(BaseModel):
    """No coercion, no unknown fields, no later change."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Document(Strict):
    """What every document has."""

    name: Name
    description: str = ""


class EnvelopePaths(Strict):
    """What Landlock allows at most. Write implies read, execute implies read."""

    read: list[PathText] = Field(max_length=512)
    write: list[PathText] = Field(default_factory=list, max_length=512)
    execute: list[PathText] = Field(default_factory=list, max_length=512)


class OperationPattern(Strict):
    """Operations on the objects of one pattern."""

    operations: Annotated[list[Annotated[Operation, Field(strict=False)]], Field(min_length=1)]
    on: PatternText


class LeaseCeiling(OperationPattern):
    """The most that a lease of the gate may cover here."""

    uses: int = Field(ge=1, le=1_000_000)
    seconds: int = Field(ge=1, le=86_400)


class Limits(Strict):
    """Bounds on one sandbox."""

    pending: int = Field(default=64, ge=1, le=4096, description="side effects that wait at the same time")
    processes: int = Field(
        default=1024, ge=1, le=1_000_000, description="RLIMIT_NPROC, and pids.max where there is one"
    )
    scratch_mib: int = Field(default=256, ge=1, le=1_048_576)
    journal_mib: int = Field(default=64, ge=1, le=1_048_576, description="past it the sandbox is frozen")


class Environment(Strict):
    """Variables that look like credentials are dropped; these are kept, or dropped besides."""

    keep: list[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]] = Field(default_factory=list)
    drop: list[Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]] = Field(default_factory=list)


class Profile(Document):
    """What a sandbox may do at most, and what runs free in it."""

    kind: Literal["Profile"]
    reads: Literal["envelope", "pause"] = "envelope"
    envelope: EnvelopePaths
    protected: list[PathText] = Field(default_factory=list, max_length=512)
    free: list[OperationPattern] = Field(default_factory=list, max_length=256)
    ceiling: list[LeaseCeiling] = Field(default_factory=list, max_length=256)
    durable: list[Annotated[Operation, Field(strict=False)]] = Field(default_factory=list)
    limits: Limits = Limits()
    environment: Environment = Environment()


class Rate(Strict):
    """A token bucket."""

    per_second: float = Field(gt=0, le=1_000_000)
    burst: int = Field(ge=1, le=1_000_000)


class Effect(Strict):
    """One side effect that a tool declares: operations on a constant, or on an argument.

    `argument` is a JSONPath of member names: `$.path`, or `$.files[*]` for each member of a list. `names` says what the
    argument is: a path (relative to the server's directory), a URL or `HOST:PORT` (net.resolve is on its host name, the
    other operations are on the addresses that this led to), or a command line (the text that a shell gets with -c, or
    its words). `under`: the object may lie anywhere beneath it. `beside`: also names that go on after a dot
    (`notes.txt.5f3a.tmp`), as programs write that rename over the file when they are done.
    """

    operations: Annotated[list[Annotated[Operation, Field(strict=False)]], Field(min_length=1)]
    on: PatternText | None = None
    argument: Annotated[str, Field(pattern=r"^\$(\.[A-Za-z_][A-Za-z0-9_-]*)+(\[\*\])?$")] | None = None
    names: Literal["path", "endpoint", "command"] = "path"
    under: bool = False
    beside: bool = False


class Results(Strict):
    """What happens to content of a server before the client gets it: injected instructions in it are passed as they
    are, marked, or withheld; what looks like a credential is passed, or masked."""

    instructions: Literal["pass", "mark", "withhold"] = "mark"
    secrets: Literal["pass", "redact"] = "pass"


class ToolEntry(Strict):
    """One tool of a server."""

    tier: TierName = "Classic"
    rate: Rate | None = None
    input_schema: dict[str, Any] | None = None
    pin: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    contract: list[Effect] = Field(default_factory=list, max_length=64)


class Tool(Document):
    """The tools of one MCP server: tier, rate, contract, pin. `name` is the server's.

    `outside`: what happens to an effect of its process that no call in flight entails: it is decided by itself and
    flagged, or denied (changes, network and signals always; programs once the server has answered its first request).
    """

    kind: Literal["Tool"]
    outside: Literal["decide", "deny"] = "decide"
    results: Results = Results()
    tools: dict[Annotated[str, Field(min_length=1, max_length=128)], ToolEntry] = Field(min_length=1)


class Agent(Document):
    """An agent's tier, who may run it, and under which profiles (the first is its default)."""

    kind: Literal["Agent"]
    tier: TierName
    users: list[str] = Field(default_factory=list, description="user names; empty: anyone in group governed")
    profiles: list[Name] = Field(min_length=1)


class Constitution(Document):
    """Cedar policies over subject, action and context. Each policy has an @id, which is the rule of its verdicts."""

    kind: Literal["Constitution"]
    cedar: Annotated[str, Field(min_length=1, max_length=1_048_576)]


class Thresholds(Strict):
    """Of P(dangerous): at `deny` and above, deny; at `ask` and above, ask; both in thousandths."""

    ask: int = Field(ge=0, le=1000)
    deny: int = Field(ge=0, le=1000)


def _server(text: str) -> str:
    """Where a vLLM server listens. Unencrypted only where nobody in between could answer for it."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/") or "\0" in path or len(path.encode("utf-8", "replace")) > _LONGEST_SOCKET:
            raise ValueError(f"expected unix:/PATH with at most {_LONGEST_SOCKET} bytes of path (unix(7))")
        return text
    found = _URL.fullmatch(text)
    if found is None:
        raise ValueError("expected unix:/PATH, http://127.0.0.1:PORT, http://[::1]:PORT or https://HOST[:PORT]")
    scheme, host, port = found.groups()
    if port is not None and not 1 <= int(port) <= 65_535:
        raise ValueError("expected a port from 1 to 65535")
    if host.startswith("["):
        ipaddress.IPv6Address(host[1:-1])  # ValueError, which names it
    elif not all(0 < len(label) <= _LONGEST_LABEL for label in host.split(".")):
        raise ValueError(f"expected a host whose labels have 1 to {_LONGEST_LABEL} characters")
    if scheme == "http" and host not in _LOOPBACK:
        hosts = ", ".join(_LOOPBACK)
        raise ValueError(f"expected https for another machine: on its way over http anybody can answer (http: {hosts})")
    return text


_LONGEST_SOCKET = 107  # sun_path without its NUL
_LONGEST_LABEL = 63  # RFC 1035
_LOOPBACK = ("127.0.0.1", "[::1]", "localhost")
_URL = re.compile(
    r"(https?)://(\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9](?:[A-Za-z0-9.-]{0,251}[A-Za-z0-9])?)(?::(\d{1,5}))?/?"
)
OperationClass = Literal["tool.call", "file.read", "file.change", "net", "process"]
Verbalizer = Annotated[str, Field(pattern=r"^[A-Za-z]{1,32}$")]
Marker = Annotated[str, Field(max_length=2048)]


class Verbalizers(Strict):
    """The two words that the model answers with; each has to be one token where it stands."""

    safe: Verbalizer
    dangerous: Verbalizer


class VllmServer(Strict):
    """The vLLM server whose model is asked.

    `url`: `unix:/PATH`, `http://127.0.0.1:PORT`, or `https://HOST[:PORT]`. `model`: its name there. `verbalizers`: if
    not given, the first of Safe/Dangerous and No/Yes that is two single tokens and separates. `before` and `after`: the
    chat markers that this model wants around the question. `method`: how two tokens are read; `auto` finds out what
    the server can. `deadline_seconds`: for one answer. `concurrency`: probes under way at the same time; those past it
    wait within their deadline. `fingerprint`: what `governedctl gate calibrate` measured of the model, in thousandths:
    another model that answers under the same name is then refused.
    """

    url: Annotated[str, Field(max_length=512), AfterValidator(_server)]
    model: str = Field(min_length=1, max_length=256)
    verbalizers: Verbalizers | None = None
    before: Marker = ""
    after: Marker = ""
    method: Literal["auto", "completions", "generative_scoring", "classify"] = "auto"
    deadline_seconds: int = Field(default=10, ge=1, le=299)
    concurrency: int = Field(default=32, ge=1, le=1024)
    fingerprint: Annotated[list[int], Field(min_length=7, max_length=7)] | None = None


class OperationRule(Strict):
    """For one operation: the least tier, and its rate per agent."""

    tier: TierName = "Classic"
    rate: Rate | None = None


class Gate(Document):
    """How the gate decides. `thresholds` hold for every class of operation that `class_thresholds` does not name."""

    kind: Literal["Gate"]
    backend: Literal["embedded", "vllm"] = "embedded"
    vllm: VllmServer | None = None
    mode: Literal["enforce", "shadow"] = "enforce"
    uncertain: Literal["ask", "flag"] = "ask"
    thresholds: Thresholds = Thresholds(ask=700, deny=900)
    class_thresholds: dict[OperationClass, Thresholds] = Field(default_factory=dict)
    alpha_thousandths: int = Field(default=900, ge=0, le=2000)
    operations: dict[Annotated[Operation, Field(strict=False)], OperationRule] = Field(default_factory=dict)
    gate_seconds: int = Field(default=30, ge=1, le=300)
    person_seconds: int = Field(default=600, ge=1, le=86_400)


AnyDocument = Annotated[Profile | Tool | Agent | Constitution | Gate, Field(discriminator="kind")]
