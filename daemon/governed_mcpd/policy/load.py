"""Policy files to one checked PolicySet, or to all that is wrong with them. All or nothing."""

import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar, cast

from blake3 import blake3
from pydantic import ValidationError

from governed_mcpd.policy import text
from governed_mcpd.policy.documents import Agent, Constitution, Document, Gate, Profile, Tool
from governed_mcpd.policy.explain import field_problem
from governed_mcpd.policy.problem import PolicyError, Problem, printable, shown

__all__ = ["PolicyError", "PolicySet", "Problem", "load_directory", "parse", "read_files", "version_of"]

MAX_FILES = 256
MAX_TOTAL_BYTES = 16 << 20
_DOMAIN = "governed-mcpd 2026-01 policy set version"
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\.ya?ml\Z")
_LINE = re.compile(r"line (\d{1,7}): (.*)\Z", re.DOTALL)
_KINDS: dict[str, type[Document]] = {
    "Profile": Profile,
    "Tool": Tool,
    "Agent": Agent,
    "Constitution": Constitution,
    "Gate": Gate,
}
# Constitution → what is wrong with its Cedar, each perhaps with "line N: " (of the Cedar text) in front. Only the
# gate's rooms know Cedar; the daemon loads without.
CheckConstitution = Callable[[Constitution], list[str]]
D = TypeVar("D", bound=Document)


@dataclass(frozen=True, slots=True)
class PolicySet:
    """Everything that is applied together. `version` names exactly these files: the same bytes, the same version."""

    version: str
    files: Mapping[str, bytes]
    profiles: Mapping[str, Profile]
    tools: Mapping[str, Tool]
    agents: Mapping[str, Agent]
    constitutions: Mapping[str, Constitution]
    gate: Gate


@dataclass(frozen=True, slots=True)
class _Read:
    """One document and where it stands."""

    file: str
    place: text.Place
    document: Document

    def problem(self, field: str, found: str, expected: str, remedy: str) -> Problem:
        place = self.place
        for name in field.split("."):
            key: str | int = int(name) if name.isdigit() else name
            place = place.members.get(key, place)
        return Problem(self.file, place.line, place.column, field, found, expected, remedy)


def version_of(files: Mapping[str, bytes]) -> str:
    """BLAKE3 (derive-key mode, 64 hex digits) over the sorted files, each part with its length before it."""
    hasher = blake3(derive_key_context=_DOMAIN)
    for name in sorted(files):
        for part in (os.fsencode(name), files[name]):
            hasher.update(len(part).to_bytes(8, "big"))
            hasher.update(part)
    return hasher.hexdigest()


def load_directory(path: str | os.PathLike[str], check_constitution: CheckConstitution | None = None) -> PolicySet:
    """Reads and checks all *.yaml and *.yml of a directory (or one such file). Raises PolicyError."""
    return parse(read_files(path), check_constitution)


def parse(files: Mapping[str, bytes], check_constitution: CheckConstitution | None = None) -> PolicySet:
    """Checks documents that are already in memory, as a client of the control socket sends them. Raises PolicyError."""
    problems = _file_problems(files)
    if problems:
        raise PolicyError(problems)
    reads: list[_Read] = []
    for name in sorted(files):
        _read_file(name, files[name], reads, problems)
    readable = not problems
    by_kind = {kind: _unique(kind, reads, problems) for kind in _KINDS}
    _check_across(by_kind, problems)
    if readable:  # a document that could not be read may be the one that is missing
        _check_present(by_kind, problems)
    if check_constitution is not None:
        for read in by_kind["Constitution"].values():
            _check_cedar(read, check_constitution, problems)
    if problems:
        raise PolicyError(sorted(problems, key=lambda p: (p.file, p.line, p.column)))
    gates = _documents(by_kind["Gate"], Gate)
    return PolicySet(
        version=version_of(files),
        files=MappingProxyType(dict(files)),
        profiles=_documents(by_kind["Profile"], Profile),
        tools=_documents(by_kind["Tool"], Tool),
        agents=_documents(by_kind["Agent"], Agent),
        constitutions=_documents(by_kind["Constitution"], Constitution),
        gate=next(iter(gates.values()), Gate(kind="Gate", name="default")),
    )


def read_files(path: str | os.PathLike[str]) -> dict[str, bytes]:
    """The *.yaml and *.yml files of a directory (or the one file `path`), by name. Raises PolicyError.

    Links and special files are refused, not followed: what is applied is what lies there.
    """
    where = os.fspath(path)
    try:
        # O_NONBLOCK: a fifo of that name must not hold up whoever applies.
        descriptor = os.open(where, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise PolicyError([_unreadable(where, error)]) from None
    try:
        if not stat.S_ISDIR(os.fstat(descriptor).st_mode):
            name = os.path.basename(where)
            return {name: _content(name, descriptor)}
        return _directory_content(descriptor, where)
    finally:
        os.close(descriptor)


def _directory_content(directory: int, where: str) -> dict[str, bytes]:
    names = sorted(name for name in os.listdir(directory) if name.endswith((".yaml", ".yml")))
    if len(names) > MAX_FILES:
        found, expected = f"{len(names)} files", f"at most {MAX_FILES}"
        raise PolicyError([Problem(where, 0, 0, "", found, expected, "put documents together with ---")])
    files: dict[str, bytes] = {}
    problems: list[Problem] = []
    total = 0
    for name in names:
        try:
            descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=directory)
        except OSError as error:
            problems.append(_unreadable(name, error))
            continue
        try:
            files[name] = _content(name, descriptor)
        except PolicyError as error:
            problems.extend(error.problems)
            continue
        finally:
            os.close(descriptor)
        total += len(files[name])
        if total > MAX_TOTAL_BYTES:
            raise PolicyError([_too_much(where)])
    if problems:
        raise PolicyError(problems)
    return files


def _content(name: str, descriptor: int) -> bytes:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise PolicyError([Problem(name, 0, 0, "", "no regular file", "a regular file", "remove or replace it")])
    parts: list[bytes] = []
    left = text.MAX_BYTES + 1
    try:
        while left > 0 and (part := os.read(descriptor, left)):
            parts.append(part)
            left -= len(part)
    except OSError as error:
        raise PolicyError([_unreadable(name, error)]) from None
    if left <= 0:
        expected = f"at most {text.MAX_BYTES}"
        raise PolicyError([Problem(name, 0, 0, "", "more bytes", expected, "split it into several files")])
    return b"".join(parts)


def _unreadable(name: str, error: OSError) -> Problem:
    remedy = "check the path and its permissions; a link has to be replaced by the file"
    return Problem(name, 0, 0, "", printable(error.strerror or str(error)), "a file that can be read", remedy)


def _too_much(where: str) -> Problem:
    return Problem(where, 0, 0, "", "more bytes in all", f"at most {MAX_TOTAL_BYTES}", "apply fewer or smaller files")


def _file_problems(files: Mapping[str, bytes]) -> list[Problem]:
    if not files:
        remedy = "name a directory that has *.yaml files (a set has at least a Profile and an Agent named default)"
        return [Problem("policies", 0, 0, "", "no files", "policy documents", remedy)]
    if len(files) > MAX_FILES:
        found, expected = f"{len(files)} files", f"at most {MAX_FILES}"
        return [Problem("policies", 0, 0, "", found, expected, "put documents together with ---")]
    if sum(map(len, files.values())) > MAX_TOTAL_BYTES:
        return [_too_much("policies")]
    remedy = "rename it (letters, digits, '.', '_' and '-'; a leading '.' hides it)"
    return [
        Problem(name, 0, 0, "", "this file name", "NAME.yaml or NAME.yml", remedy)
        for name in sorted(files)
        if not _FILE_NAME.match(name)
    ]


def _read_file(name: str, content: bytes, reads: list[_Read], problems: list[Problem]) -> None:
    try:
        documents = text.read(name, content)
    except PolicyError as error:
        problems.extend(error.problems)
        return
    if not documents:
        remedy = "write a document in it, or remove the file"
        problems.append(Problem(name, 0, 0, "", "an empty file", "at least one document", remedy))
    for document in documents:
        _read_document(name, document, reads, problems)


def _read_document(name: str, found: text.Text, reads: list[_Read], problems: list[Problem]) -> None:
    value, place = found.value, found.place
    kinds = ", ".join(_KINDS)
    if not isinstance(value, dict):
        expected = "a document: a mapping with kind and name"
        problems.append(
            Problem(name, place.line, place.column, "", shown(value), expected, f"begin with kind: {kinds}")
        )
        return
    kind = value.get("kind")
    model = _KINDS.get(kind) if isinstance(kind, str) else None
    if model is None:
        at = place.members.get("kind", place)
        problems.append(Problem(name, at.line, at.column, "kind", shown(kind), f"one of {kinds}", "name the kind"))
        return
    try:
        reads.append(_Read(name, place, model.model_validate(value)))
    except ValidationError as error:
        problems.extend(field_problem(name, model, place, detail) for detail in error.errors(include_url=False))


def _unique(kind: str, reads: list[_Read], problems: list[Problem]) -> dict[str, _Read]:
    found: dict[str, _Read] = {}
    for read in reads:
        if not isinstance(read.document, _KINDS[kind]):
            continue
        name = read.document.name
        if name in found:
            first = found[name]
            expected = f"one {kind} of that name ({first.file}:{first.place.line} has it)"
            problems.append(read.problem("name", repr(name), expected, "rename or remove one of the two"))
        else:
            found[name] = read
    return found


def _check_present(by_kind: Mapping[str, Mapping[str, _Read]], problems: list[Problem]) -> None:
    for kind in ("Profile", "Agent"):
        if "default" not in by_kind[kind]:
            found, expected = f"no {kind} of that name", f"one {kind} named default"
            remedy = f"add a document with kind: {kind} and name: default"
            problems.append(Problem("policies", 0, 0, "default", found, expected, remedy))
    for read in by_kind["Agent"].values():
        for index, profile in enumerate(cast(Agent, read.document).profiles):
            if profile not in by_kind["Profile"]:
                known = ", ".join(sorted(by_kind["Profile"])) or "there is none"
                found, expected = repr(profile), f"the name of a Profile ({known})"
                problems.append(read.problem(f"profiles.{index}", found, expected, "add it, or name another"))


def _check_across(by_kind: Mapping[str, Mapping[str, _Read]], problems: list[Problem]) -> None:
    for read in list(by_kind["Gate"].values())[1:]:
        problems.append(read.problem("name", "a second Gate", "at most one in a set", "remove one of the two"))
    for read in by_kind["Gate"].values():
        gate = cast(Gate, read.document)
        each = {"thresholds": gate.thresholds}
        each |= {f"class_thresholds.{name}": thresholds for name, thresholds in gate.class_thresholds.items()}
        for field, thresholds in each.items():
            if thresholds.ask > thresholds.deny:
                expected = f"at most {field}.deny ({thresholds.deny})"
                remedy = "lower ask or raise deny: what is denied cannot be asked"
                problems.append(read.problem(f"{field}.ask", str(thresholds.ask), expected, remedy))
        _check_backend(read, gate, problems)


def _check_backend(read: _Read, gate: Gate, problems: list[Problem]) -> None:
    if gate.backend != "vllm":
        if gate.vllm is not None:
            remedy = "write backend: vllm to use it, or remove it"
            problems.append(read.problem("vllm", f"a server, with backend {gate.backend}", "no server", remedy))
        return
    if gate.vllm is None:
        remedy = "add vllm: {url: …, model: …}"
        problems.append(read.problem("backend", "vllm without a server", "the server's url and model", remedy))
    elif gate.vllm.deadline_seconds >= gate.gate_seconds:
        found, expected = str(gate.vllm.deadline_seconds), f"less than gate_seconds ({gate.gate_seconds})"
        remedy = "lower it or raise gate_seconds: the gate's answer has to come in time to say why"
        problems.append(read.problem("vllm.deadline_seconds", found, expected, remedy))


def _check_cedar(read: _Read, check: CheckConstitution, problems: list[Problem]) -> None:
    at = read.place.members.get("cedar", read.place)
    for complaint in check(cast(Constitution, read.document)):
        line, said = at.line, complaint
        numbered = _LINE.match(complaint)
        if numbered is not None:
            said = numbered[2]
            # The text of a block scalar (cedar: |) begins on the line after its mark.
            line = at.line + int(numbered[1]) - (0 if at.block else 1)
        found = printable(said, 400)
        problems.append(
            Problem(
                read.file, line, at.column, "cedar", found, "valid Cedar", "correct the policy; validate -f shows all"
            )
        )


def _documents(reads: Mapping[str, _Read], model: type[D]) -> Mapping[str, D]:
    return MappingProxyType({name: cast(Any, read.document) for name, read in reads.items()})
