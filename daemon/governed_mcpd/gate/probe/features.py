"""What the embedded model looks at: some fifty features of an action, each between 0 and 1, each with a name in words.

It is no language model: it sees where values come from, what patterns matched, how the action's words resemble the task
and the orders in untrusted content, and what kind of object a side effect touches.
"""

import functools
import hashlib
import ipaddress
import os.path
import re
from collections.abc import Callable
from itertools import islice

from governed_mcpd.gate.reading import Reading, tool_words
from governed_mcpd.gate.text import intents
from governed_mcpd.gate.text import provenance as trace
from governed_mcpd.gate.text.sentences import normalise
from governed_mcpd.gate.text.words import words
from governed_mcpd.nouns.action import SideEffect, ToolCall
from governed_mcpd.nouns.operation import FILE_CHANGES, NETWORK, Operation
from governed_mcpd.nouns.pattern import split_endpoint

Put = Callable[..., None]

REVISION = 7
# In the order of the weights of a model.
NAMES = (
    "a value that only an order in untrusted content gives",
    "a common word that only an order in untrusted content gives",
    "the words of an order in untrusted content, not of the task",
    "the tool that an order in untrusted content describes",
    "the words of untrusted content that speaks of effects, not of the task",
    "the words of the task",
    "the task asks for such an effect",
    "the task asks for no such effect",
    "the task is about such things",
    "an effect that the task does not ask for, to a destination that stands nowhere in view",
    "values from the task",
    "an order in untrusted content is in view",
    "the task hands over to content",
    "the task hands over, and the value comes from an order",
    "no untrusted content is in view",
    "no task is known",
    "it changes or sends something",
    "it only reads",
    "injected instructions",
    "claimed authority",
    "exfiltration",
    "a destructive command",
    "it names secrets",
    "it presses the reader",
    "a path in the task's directories or scratch",
    "a path of credentials",
    "a path that makes something run later",
    "a path of the system is changed",
    "a path of the system is read",
    "a path in the home directory outside the task is changed",
    "a path in the home directory outside the task is read",
    "a cache in the home directory",
    "it removes or overwrites",
    "a connection to this machine",
    "a connection to a private network",
    "a connection to a public address on a usual port",
    "a connection to a public address on an unusual port",
    "a connection to an address of cloud metadata",
    "a connection after credentials were read",
    "a program of the system",
    "a program from the task's directories",
    "a program from a temporary or hidden place",
    "a program that opens connections for others",
    "a signal to another process",
    "a program text on the command line",
)
_INDEX = {name: index for index, name in enumerate(NAMES)}

_CREDENTIALS = re.compile(
    r"/\.ssh/(?!known_hosts$|config$|[^/]*\.pub$)|/\.aws/|/\.gnupg/|/\.netrc$|/\.git-credentials$|/\.kube/|/\.docker/config\.json$|"
    r"/\.pgpass$|/\.password-store/|/\.mozilla/|/\.config/(?:google-chrome|chromium|gh|gcloud)/|/\.azure/|/\.local/share/keyrings/|"
    r"^/etc/(?:g?shadow|sudoers|ssh/ssh_host_[^/]*_key$)|/\.npmrc$|/\.pypirc$|^/proc/\d+/(?:environ|mem)$"
)
_RUNS_LATER = re.compile(
    r"/\.(?:bashrc|bash_profile|bash_login|profile|zshrc|zshenv|zprofile|xprofile|xinitrc|inputrc)$|/\.ssh/(?:authorized_keys|rc|config)$|"
    r"/\.config/(?:systemd|autostart|fish)/|/\.git/hooks/|^/etc/(?:cron|systemd|profile|init|rc|ld\.so|sudoers|pam|xdg/autostart)|"
    r"^/var/spool/(?:cron|at)|^/(?:usr/)?lib/systemd/|/LaunchAgents/|/sitecustomize\.py$|/usercustomize\.py$|\.pth$"
)
_SYSTEM = re.compile(r"^/(?:etc|usr|bin|sbin|lib|lib32|lib64|boot|opt|var|sys|proc|dev|srv)(?:/|$)")
_HARMLESS = re.compile(
    r"^/dev/(?:null|zero|full|random|urandom|tty|ptmx|pts/\d+|shm(?:/.*)?)$|^/proc/self/|^/var/tmp(?:/|$)|^/tmp(?:/|$)"
)
_TEMPORARY = re.compile(r"^/(?:tmp|var/tmp|dev/shm)/|/\.[^/]+/[^/]*$")
_SYSTEM_PROGRAM = re.compile(r"^/(?:usr/(?:local/)?(?:bin|sbin|lib|libexec|lib64|share)|bin|sbin|lib|opt|nix|snap)/")
_RELAYS = frozenset(
    words(
        """
    nc ncat netcat nc.openbsd nc.traditional socat telnet ngrok chisel frpc cloudflared sshuttle proxychains4
    proxychains
    """
    )
)
_USUAL_PORTS = frozenset(
    words(
        """
    22 53 80 123 443 465 587 853 993 3000 3128 5432 8000 8008 8080 8443 9418
    """
    )
)
_REMOVES = frozenset((Operation.FILE_UNLINK, Operation.FILE_RMDIR, Operation.FILE_TRUNCATE))
_REMOVING_WORDS = frozenset(
    words(
        """
    delete remove drop wipe erase destroy purge truncate revoke cancel kill terminate uninstall overwrite format
    """
    )
)
_PRIVATE = tuple(
    ipaddress.ip_network(text)
    for text in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "169.254.0.0/16",
        "fc00::/7",
        "fe80::/10",
    )
)
_CACHE = re.compile(
    r"^/\.(?:cache|npm|cargo|rustup|gradle|m2|ccache|local/state|local/share/(?:pnpm|virtualenv)|node-gyp)/|^/\.[a-z]+_history$|^/go/pkg/"
)
_WORD = re.compile(r"[^\W_]{3,}")
_STOP = frozenset(
    words(
        """
    the and for with that this from into your you our are was were will would can could should has have had not all
    any but its them then than who what when where which please also there here they their his her him she about
    just only some more most true false none null string
    """
    )
)
_WORDS_READ = 400
_SENTENCES_READ = 200


def extract(reading: Reading) -> list[float]:
    """The features of one action, in the order of NAMES. Raises what Reading raises."""
    values = [0.0] * len(NAMES)

    def put(name: str, value: float = 1.0) -> None:
        index = _INDEX[name]
        values[index] = max(values[index], min(value, 1.0))

    _provenance(reading, put)
    _patterns(reading, put)
    what = reading.action.what
    if isinstance(what, SideEffect):
        _effect(reading, what, put)
    else:
        put("it changes or sends something" if reading.has_effect else "it only reads")
        if _REMOVING_WORDS.intersection(tool_words(what.tool)):
            put("it removes or overwrites")
        for _, text in reading.leaves[:64]:
            if text.startswith(("/", "~/")) and len(text) < 4096:
                _path(reading, text, reading.has_effect, put)
    return values


def version() -> str:
    """Which features these are: a model fits one version only. Whoever changes what a feature means raises REVISION."""
    return hashlib.sha256("\n".join((str(REVISION), *NAMES)).encode()).hexdigest()[:16]


def _provenance(reading: Reading, put: Put) -> None:
    context = reading.action.context
    if not context.task:
        put("no task is known")
    found = reading.provenance
    if not context.untrusted:
        put("no untrusted content is in view")
        if context.task and isinstance(reading.action.what, ToolCall):
            put("the words of the task", _share(_words_of(reading), _vocabulary(context.task)))
        return
    told = found.from_instruction()
    if told:
        put("a value that only an order in untrusted content gives")
        if found.delegates:
            put("the task hands over, and the value comes from an order")
    origins = [item.origin for item in found.values]
    if not told and trace.Origin.INSTRUCTION in origins:
        put("a common word that only an order in untrusted content gives")
    if origins:
        put("values from the task", origins.count(trace.Origin.TASK) / len(origins))
    if found.instructed:
        put("an order in untrusted content is in view")
    if found.delegates:
        put("the task hands over to content")
    if isinstance(reading.action.what, ToolCall):
        speaks = _resemblance(reading, reading.action.what, put)
        _destinations(reading, put)
    else:
        speaks = trace.Origin.INSTRUCTION in origins
    if not (context.task or told or speaks):
        # Without a task nothing says what was asked for; content that says nothing of this action is no evidence.
        put("no untrusted content is in view")


def _resemblance(reading: Reading, call: ToolCall, put: Put) -> bool:
    """How the call's words, and the kinds of what it does, resemble the task and the orders in untrusted content.
    Whether that content speaks of the call at all."""
    context = reading.action.context
    parts = [part for item in trace.parts_of(context) for part in item]
    task = _vocabulary(context.task)
    ordered = frozenset().union(*(_vocabulary(part.instructing) for part in parts))
    words = _words_of(reading)
    by_task, by_order = _share(words, task), _share(words, ordered)
    put("the words of the task", by_task)
    ordering = max(by_order - by_task, 0.0)
    put("the words of an order in untrusted content, not of the task", ordering)
    # Orders that are put as statements, or in a language that is not known here, are no orders by their form.
    spoken = frozenset().union(*(_vocabulary(_speaking(part.data)) for part in parts))
    speaking = max(_share(words, spoken - ordered) - by_task, 0.0)
    put("the words of untrusted content that speaks of effects, not of the task", speaking)
    tool = {intents.stem(word) for word in tool_words(call.tool) if len(word) > 2 and not intents.says_nothing(word)}
    describing = max(_share(tool, ordered) - _share(tool, task), 0.0)
    put("the tool that an order in untrusted content describes", describing)
    resembles = ordering + speaking + describing > 0
    does, asked = reading.intent, intents.of_text(context.task)
    if not asked.known:
        return resembles
    if does.things & asked.things:
        put("the task is about such things")
    if does.effects & asked.effects:
        put("the task asks for such an effect")
    elif does.effects and not reading.provenance.delegates:
        put("the task asks for no such effect")
    return resembles


def _destinations(reading: Reading, put: Put) -> None:
    if not (reading.has_effect and reading.provenance.destinations_from_nowhere()):
        return
    asked = intents.of_text(reading.action.context.task)
    if asked.known and reading.intent.effects and not reading.intent.effects & asked.effects:
        put("an effect that the task does not ask for, to a destination that stands nowhere in view")


def _words_of(reading: Reading) -> frozenset[str]:
    call = reading.action.what
    words = tool_words(call.tool) if isinstance(call, ToolCall) else []
    for _, text in reading.leaves:
        words.extend(_WORD.findall(normalise(text[:2000])))
        if len(words) > _WORDS_READ:
            break
    return frozenset(intents.stem(word) for word in words if len(word) > 2 and word not in _STOP and not word.isdigit())


@functools.lru_cache(maxsize=64)
def _speaking(data: str) -> str:
    """The sentences of `data` that speak of an effect, as far as so many are looked at."""
    sentences = islice(data.split("\n"), _SENTENCES_READ)
    return "\n".join(sentence for sentence in sentences if intents.of_text(sentence).effects)


@functools.lru_cache(maxsize=128)
def _vocabulary(text: str) -> frozenset[str]:
    return frozenset(intents.stem(word) for word in _WORD.findall(normalise(text)) if word not in _STOP)


def _share(part: frozenset[str] | set[str], whole: frozenset[str]) -> float:
    return len(part & whole) / len(part) if part else 0.0


_BY_CATEGORY = {
    "injected-instructions": "injected instructions",
    "claimed-authority": "claimed authority",
    "exfiltration": "exfiltration",
    "destructive-command": "a destructive command",
}


def _patterns(reading: Reading, put: Put) -> None:
    for suspicion in reading.suspicions:
        if suspicion.id == "bulk-secrets":
            put("it names secrets")
        elif suspicion.id == "urgent-tone":
            put("it presses the reader")
        else:
            put(_BY_CATEGORY[suspicion.category], 1.0 if suspicion.effect == "deny" else 0.6)


def _effect(reading: Reading, effect: SideEffect, put: Put) -> None:
    operation = effect.operation
    if operation in NETWORK:
        _connection(reading, effect, put)
    elif operation is Operation.NET_RESOLVE:
        put("it changes or sends something")  # what the name itself says is layer 4's
    elif operation is Operation.PROCESS_EXEC:
        _program(reading, effect, put)
    elif operation is Operation.PROCESS_SIGNAL:
        put("a signal to another process")
    else:
        changes = operation in FILE_CHANGES
        put("it changes or sends something" if changes else "it only reads")
        if operation in _REMOVES:
            put("it removes or overwrites")
        # What runs later in an environment that this sandbox made is its own: the daemon has seen it made.
        own = effect.details.get("environment") == "made"
        two = operation in (Operation.FILE_RENAME, Operation.FILE_LINK)
        _path(reading, effect.object, changes, put, own=own and not two)
        if two:
            _path(reading, effect.second, changes, put, own=own)


def _path(reading: Reading, path: str, changes: bool, put: Put, *, own: bool = False) -> None:
    home = reading.action.context.home.rstrip("/")
    if path.startswith("~/"):
        path = (home or "/home/user") + path[1:]
    if _HARMLESS.search(path):
        put("a path in the task's directories or scratch")
    elif changes and _RUNS_LATER.search(path) and not (own and reading.is_own_path(path)):
        put("a path that makes something run later")
    elif _CREDENTIALS.search(path):
        put("a path of credentials")
    elif reading.is_own_path(path):
        put("a path in the task's directories or scratch")
    elif _SYSTEM.search(path):
        put("a path of the system is changed" if changes else "a path of the system is read")
    elif path.startswith(("/home/", "/root/")) or (home and path.startswith(home + "/")):
        rest = "changed" if changes else "read"
        cached = bool(home) and _CACHE.search(path.removeprefix(home)) is not None
        put("a cache in the home directory" if cached else f"a path in the home directory outside the task is {rest}")


def _connection(reading: Reading, effect: SideEffect, put: Put) -> None:
    put("it changes or sends something")
    if any(_CREDENTIALS.search(earlier.object) for earlier in reading.action.context.earlier):
        put("a connection after credentials were read")
    endpoint = split_endpoint(effect.object)
    if endpoint is None:  # a unix socket
        put("a connection to this machine")
        return
    _, host, port = endpoint
    host = effect.details.get("address", host)  # what counts is where it leads
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        local = host == "localhost" or host.endswith(".localhost")
        put("a connection to this machine" if local else _public(port))
        return
    mapped = getattr(address, "ipv4_mapped", None)
    address = mapped or address
    if str(address) in ("169.254.169.254", "fd00:ec2::254", "100.100.100.200"):
        put("a connection to an address of cloud metadata")
    elif address.is_loopback or address.is_unspecified:
        put("a connection to this machine")
    elif any(address in network for network in _PRIVATE if network.version == address.version):
        put("a connection to a private network")
    else:
        put(_public(port))


def _public(port: str) -> str:
    usual = "usual" if port in _USUAL_PORTS else "unusual"
    return f"a connection to a public address on a{'n' if usual == 'unusual' else ''} {usual} port"


def _program(reading: Reading, effect: SideEffect, put: Put) -> None:
    program = effect.object
    if os.path.basename(program) in _RELAYS:
        put("a program that opens connections for others")
    if reading.is_own_path(program):
        put("a program from the task's directories")
    elif _SYSTEM_PROGRAM.search(program):
        put("a program of the system")
    elif _TEMPORARY.search(program):
        put("a program from a temporary or hidden place")
    if any(word in ("-c", "-e", "--eval", "--command") for word in effect.argv[1:4]):
        put("a program text on the command line")
    for word in effect.argv[1:64]:
        if word.startswith("/") and (_CREDENTIALS.search(word) or _RUNS_LATER.search(word)):
            put("a path of credentials" if _CREDENTIALS.search(word) else "a path that makes something run later", 0.7)
