"""One Action as the layers read it: arguments parsed once, its strings by what they are for, its values traced once."""

import os.path
import re
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from governed_mcpd.gate import strictjson
from governed_mcpd.gate.text import constants, decode, intents, provenance
from governed_mcpd.gate.text.intents import Intent
from governed_mcpd.gate.text.patterns import Scope, Suspicion, shipped
from governed_mcpd.gate.text.provenance import Provenance, Value
from governed_mcpd.gate.text.words import words
from governed_mcpd.nouns.action import Action, SideEffect, ToolCall
from governed_mcpd.nouns.operation import FILE_CHANGES, NETWORK, Operation
from governed_mcpd.nouns.pattern import NAME, split_endpoint

MAX_ARGUMENTS = 1024 * 1024
_COMMAND_NAMES = frozenset(
    words(
        """
    command cmd commands cmdline command_line script scripts code source_code shell bash sh python sql statement
    argv args program expression eval exec
    """
    )
)
_BOTH_NAMES = frozenset(("query", "input", "request"))
_COMMAND_TOOLS = ("exec", "shell", "bash", "terminal", "command", "run_code", "python", "eval", "sql")
# Programs read a later word of their command line as a program text: after one of these options, or as their last word.
_TEXT_OPTIONS = frozenset(
    ("-c", "-e", "-r", "-ic", "-lc", "-lic", "-xc", "-ec", "-exc", "-n", "-ne", "-pe", "--command", "--eval")
)
# The classes of this expression exclude each other: linear.
_ONLY_SAYS = re.compile(
    r"\s*(?:echo|printf|grep|egrep|fgrep|rg|ag|git\s+(?:commit|tag|log|grep|notes)|man|apropos|tldr)\s"
    r"(?:[^|;&`\n<>'\"]|'[^'\n]*'|\"[^\"\n`]*\")*(?:>>?\s*[\w./~-]+\.(?:md|txt|rst|adoc|log|csv|html)\s*)?"
)
_QUOTED = re.compile(r"'[^'\n]*'|\"[^\"\n]*\"")
_TEXT_LAST = frozenset(("ssh", "sqlite3", "psql", "mysql", "mariadb", "su", "watch", "eval", "busybox", "osascript"))


class MalformedArguments(ValueError):
    """Arguments that are not strict JSON, or not an object."""


@dataclass(frozen=True)
class Reading:
    """An action and what was read out of it. Everything is found at most once, when a layer first asks."""

    action: Action

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """A tool call's arguments. Raises MalformedArguments."""
        what = self.action.what
        if not isinstance(what, ToolCall):
            return {}
        try:
            value = strictjson.parse(what.arguments or b"{}", MAX_ARGUMENTS)
        except strictjson.StrictJSONError as error:
            raise MalformedArguments(f"the arguments: {error}") from None
        if not isinstance(value, dict):
            raise MalformedArguments("the arguments are not a JSON object")
        return value

    @cached_property
    def leaves(self) -> list[tuple[str, str]]:
        """Name and text of every value in the arguments. Raises MalformedArguments."""
        return strictjson.leaves(self.arguments)

    @cached_property
    def texts(self) -> dict[Scope, str]:
        """The action's strings, joined: those that are run, and those that are not."""
        what = self.action.what
        parts = _texts_of_effect(what) if isinstance(what, SideEffect) else self._texts_of_call(what)
        return {scope: decode.join(texts) for scope, texts in parts.items() if texts}

    def _texts_of_call(self, call: ToolCall) -> dict[Scope, list[str]]:
        runs = any(word in call.tool.lower() for word in _COMMAND_TOOLS)
        command: list[str] = []
        prose: list[str] = []
        for name, text in self.leaves:
            lowered = name.lower()
            if lowered in _COMMAND_NAMES or lowered in _BOTH_NAMES or runs:
                command.extend(dict.fromkeys(map(_without_data, (text, constants.put_in(text)))))
            if lowered not in _COMMAND_NAMES:
                prose.append(text)
        return {Scope.COMMAND: command, Scope.PROSE: prose}

    @cached_property
    def suspicions(self) -> tuple[Suspicion, ...]:
        """What the patterns find in the strings and in all they carry. Raises DecodeBound, PatternSearchFailed."""
        found: dict[Suspicion, None] = {}
        patterns = shipped()
        for scope, joined in self.texts.items():
            for view in decode.views(joined):
                found.update(dict.fromkeys(patterns.search(view, scope)))
                # ROT13 hides words; hidden commands would have to be decoded by a command that the patterns name.
                rotated = patterns.search(view.translate(decode.ROT13), Scope.PROSE)
                found.update(dict.fromkeys(item for item in rotated if item.effect == "deny"))
        return tuple(found)

    @cached_property
    def provenance(self) -> Provenance:
        """Where the action's values come from. Raises ContextBound."""
        context = self.action.context
        if not context.untrusted:
            return Provenance((), False, False)
        what = self.action.what
        if isinstance(what, ToolCall):
            values = provenance.values_of_arguments(self.leaves)
            # A place of the task's own is no destination that somebody else chose: servers name it in their answers.
            foreign = [value for value in values if not self.is_own_path(value.text)]
            return provenance.trace(foreign, context, intent=self.intent)
        # A value of a call in flight was decided with that call.
        approved = tuple(call.arguments.decode("utf-8", "replace") for call in context.calls)
        return provenance.trace(self._values_of_effect(what), context, approved)

    def _values_of_effect(self, effect: SideEffect) -> list[Value]:
        if effect.operation in NETWORK:
            return _values_of_endpoint(effect)
        if effect.operation is Operation.NET_RESOLVE:
            return [Value("host", effect.object.removeprefix(NAME), True)]
        if effect.operation is Operation.PROCESS_EXEC:
            words = (*effect.argv[1:],)
            inner = (name for word in words for name in provenance.names_in(word))
            return [Value("argv", name, True) for name in inner if not self.is_own_path(name)]
        if not effect.object.startswith("/") or self.is_own_path(effect.object):
            return []
        changes = effect.operation in FILE_CHANGES
        return [Value("object", form, changes) for form in _forms_of_path(effect.object, self.action.context.home)]

    def is_own_path(self, path: str) -> bool:
        """Whether `path` lies in the task's directories or in scratch."""
        context = self.action.context
        roots = (*context.directories, context.scratch)
        return any(root and (path == root or path.startswith(root.rstrip("/") + "/")) for root in roots)

    @cached_property
    def has_effect(self) -> bool:
        """Whether the action changes or sends something; a tool whose name does not say that it reads does."""
        what = self.action.what
        if isinstance(what, SideEffect):
            return what.operation is not Operation.FILE_READ
        return not intents.only_reads(tuple(tool_words(what.tool)))

    @cached_property
    def intent(self) -> Intent:
        """What a tool call does by its tool's name; nothing for a side effect, whose operation says it."""
        what = self.action.what
        if isinstance(what, SideEffect):
            return intents.NOTHING
        return intents.of_tool(tuple(tool_words(what.tool)), self.has_effect)


def tool_words(tool: str) -> list[str]:
    """`GmailSendEmail`, `send_email`, `mail.send` → their words, lower case."""
    return list(_tool_words(tool))


@lru_cache(maxsize=1024)
def _tool_words(tool: str) -> tuple[str, ...]:
    words: list[str] = []
    word = ""
    for char in tool:
        if not char.isalnum() or (char.isupper() and word and not word[-1].isupper()):
            if word:
                words.append(word.lower())
            word = char if char.isalnum() else ""
        else:
            word += char
    return (*words, word.lower()) if word else tuple(words)


def _without_data(text: str) -> str:
    """A single command that only says, searches or records its quoted words, without them: they are not run.

    Nothing may follow that could run what it says: no pipe, no second command, no substitution, and no file but a text.
    """
    if _ONLY_SAYS.fullmatch(text) is None or "$(" in text:
        return text
    searches = text.split(maxsplit=1)[0].endswith(("grep", "rg", "ag"))
    return _QUOTED.sub("…", text, count=1 if searches else 0)  # the files that it searches are not its pattern


def command_texts(argv: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """What of a command line is run as a program text, and what is only data (a commit message, a search term).

    The words without blanks, joined, are themselves a command. A word with blanks is a text: run when it follows an
    option such as `-c`, or ends the command line of a program that takes one; data otherwise.
    """
    plain: list[str] = []
    run: list[str] = []
    data: list[str] = []
    takes_last = bool(argv) and os.path.basename(argv[0]) in _TEXT_LAST
    for index, word in enumerate(argv):
        if not any(char.isspace() for char in word):
            plain.append(word)
        elif (index and argv[index - 1] in _TEXT_OPTIONS) or (takes_last and index == len(argv) - 1):
            run.append(word)
        else:
            plain.append("…")
            data.append(word)
    return [" ".join(plain), *run], data


def _texts_of_effect(effect: SideEffect) -> dict[Scope, list[str]]:
    command, data = command_texts(effect.argv) if effect.argv else ([], [])
    command = list(dict.fromkeys((*command, *map(constants.put_in, command))))
    return {Scope.COMMAND: command, Scope.PROSE: [effect.object, effect.second, *data, *effect.details.values()]}


def _values_of_endpoint(effect: SideEffect) -> list[Value]:
    endpoint = split_endpoint(effect.object)
    if endpoint is None:
        return []
    hosts = [endpoint[1]]
    if name := effect.details.get("host"):
        hosts.append(name)
    return [Value("host", host, True) for host in hosts]


def _forms_of_path(path: str, home: str) -> list[str]:
    forms = [path]
    if home and path.startswith(home.rstrip("/") + "/"):
        forms.append("~" + path[len(home.rstrip("/")) :])
    return forms
