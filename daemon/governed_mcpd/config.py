"""What daemon, gate and CLI are told about their place: directories, groups, the seal, the log.

Command line before environment before file before default. Imports stay few: the launcher reads this at every start.
"""

import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

DEFAULT_FILE = "/etc/governed-mcpd/config.toml"
FILE_VARIABLE = "GOVERNED_CONFIG"

# sockets lie in the runtime directory, and sockaddr_un has room for 107 bytes (unix(7))
_MAX_RUNTIME_DIR = 88
_SEALS = ("required", "best-effort")
_LOG_LEVELS = ("debug", "info", "warning", "error")
_MAX_PORT = 65535
_MOST_REMOTES = 64
_ADDRESS = re.compile(r"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?):([0-9]{1,5})")
_MAX_ID = 2**32 - 2  # 2**32 - 1 means "no change" to chown(2) and setresuid(2)


class ConfigError(ValueError):
    """A configuration that cannot be used. The text names where it stands, the key, and what was expected."""


@dataclass(frozen=True, slots=True)
class Config:
    """The settings, each of the right form. Groups and users are names or decimal ids; see `gid_of` and `uid_of`.

    `upstreams`: the name servers that governed-resolver asks, `ADDRESS` or `ADDRESS#PORT` with blanks between; empty:
    those of /etc/resolv.conf.
    """

    runtime_dir: str = "/run/governed-mcpd"
    state_dir: str = "/var/lib/governed-mcpd"
    policy_dir: str = "/etc/governed-mcpd/policies"
    seal: str = "required"
    gate_user: str = "governed-gate"
    resolver_user: str = "governed-resolver"
    upstreams: str = ""
    gate_remotes: str = ""  # HOST:PORT of each remote gate, with commas between
    gate_listen: str = ""  # HOST:PORT where this gate answers balancers; empty: nowhere
    gate_tls_dir: str = "/etc/governed-mcpd/gate-tls"
    group: str = "governed"
    admin_group: str = "governed-admin"
    log_level: str = "info"


def load(path: str | None = None, overrides: Mapping[str, str | int | None] | None = None) -> Config:
    """The configuration: `overrides` (from the command line; None: not given), environment, file, defaults.

    `path` names the file; without it $GOVERNED_CONFIG does, and without that the default file, which may be absent.
    Variables are GOVERNED_ and the key in capitals. Raises ConfigError.
    """
    given = path or os.environ.get(FILE_VARIABLE)
    settings = _from_file(given or DEFAULT_FILE, required=given is not None)
    for key in _KEYS:
        variable = "GOVERNED_" + key.upper()
        value = os.environ.get(variable)
        if value:
            settings[key] = _checked(key, value, f"environment variable {variable}")
    for key, override in (overrides or {}).items():
        option = "--" + key.replace("_", "-")
        if key not in _KEYS:
            raise ConfigError(f"{option}: there is no such setting; expected one of {', '.join(_KEYS)}")
        if override is not None:
            if key.endswith("_dir") and isinstance(override, str) and override:
                settings[key] = _checked(key, os.path.abspath(override), option)
            else:
                settings[key] = _checked(key, override, option)
    return replace(Config(), **settings)


def gid_of(group: str) -> int:
    """The id of a group that is given by name or number; ConfigError when there is none of that name."""
    if group.isdecimal():
        return int(group)
    import grp  # noqa: PLC0415 - only who checks groups needs it

    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigError(
            f"there is no group {group!r}: create it (groupadd --system {group}) or name another (group, admin_group)"
        ) from None


def uid_of(user: str) -> int:
    """The id of a user that is given by name or number; ConfigError when there is none of that name."""
    if user.isdecimal():
        return int(user)
    import pwd  # noqa: PLC0415 - only who changes its user needs it

    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise ConfigError(
            f"there is no user {user!r}: create it (useradd --system {user}) or name another (gate_user, resolver_user)"
        ) from None


def _from_file(path: str, *, required: bool) -> dict[str, str]:
    try:
        with open(path, "rb") as file:
            text = file.read().decode()
        table = tomllib.loads(text)
    except FileNotFoundError:
        if not required:
            return {}
        raise ConfigError(f"{path}: there is no such configuration file") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the configuration file: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: the configuration file is not UTF-8 (byte {error.start})") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: the configuration file is not TOML: {error}") from None
    settings = {}
    for key, value in table.items():
        where = f"{path}{_line_of(key, text)}: {key}"
        if key not in _KEYS:
            raise ConfigError(f"{where}: there is no such setting; expected one of {', '.join(_KEYS)}")
        settings[key] = _checked(key, value, where)
    return settings


def _line_of(key: str, text: str) -> str:
    """`:N` for the line on which the key, or the table of that name, stands; nothing when it cannot be told."""
    quoted = re.escape(key)
    found = re.search(rf"""^[ \t]*(\[+[ \t]*)?["']?{quoted}["']?[ \t]*[\].=]""", text, re.MULTILINE)
    return f":{text.count(chr(10), 0, found.start()) + 1}" if found else ""


def _checked(key: str, value: object, where: str) -> str:
    """`value` in the form that `key` has, or ConfigError."""
    if key.endswith("_dir"):
        if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
            raise ConfigError(f"{where} is {value!r}: expected an absolute path")
        if key == "runtime_dir" and len(os.fsencode(value)) > _MAX_RUNTIME_DIR:
            raise ConfigError(
                f"{where} is {value!r}: expected at most {_MAX_RUNTIME_DIR} bytes, as the names of sockets are short"
            )
        return os.path.normpath(value)
    if key in ("group", "admin_group", "gate_user", "resolver_user"):
        return _name_or_id(value, where, "user" if key.endswith("_user") else "group")
    if key == "upstreams":
        return _upstreams(value, where)
    if key in ("gate_remotes", "gate_listen"):
        return _addresses(value, where, _MOST_REMOTES if key == "gate_remotes" else 1)
    words = _SEALS if key == "seal" else _LOG_LEVELS
    if not isinstance(value, str) or value not in words:
        raise ConfigError(f"{where} is {value!r}: expected {' or '.join(words)}")
    return value


def _upstreams(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{where} is {value!r}: expected text, with addresses of name servers and blanks between")
    import ipaddress  # noqa: PLC0415 - only the resolver has any

    for upstream in value.split():
        address, mark, port = upstream.partition("#")
        try:
            ipaddress.ip_address(address)
        except ValueError:
            raise ConfigError(f"{where}: {address!r} is not an address: expected ADDRESS or ADDRESS#PORT") from None
        if mark and not (port.isascii() and port.isdigit() and 0 < int(port[:6]) <= _MAX_PORT):
            raise ConfigError(f"{where}: {port!r} is not a port: expected ADDRESS#PORT, 1 to {_MAX_PORT}")
    return " ".join(value.split())


def _addresses(value: object, where: str, most: int) -> str:
    """`HOST:PORT` or several, as a list or with commas between; each once."""
    texts = value.split(",") if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ConfigError(f"{where} is {value!r}: expected HOST:PORT{' or a list of those' if most > 1 else ''}")
    found = [text.strip() for text in texts if text.strip()]
    for text in found:
        match = _ADDRESS.fullmatch(text)
        if match is None or not 0 < int(match[1]) < 65536:
            raise ConfigError(f"{where}: {text!r} is no HOST:PORT: expected gate.example:7443 or [::1]:7443")
    if len(set(found)) != len(found):
        raise ConfigError(f"{where} is {value!r}: expected each address once")
    if len(found) > most:
        raise ConfigError(f"{where} has {len(found)} addresses: expected at most {most}")
    return ",".join(found)


def _name_or_id(value: object, where: str, what: str) -> str:
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}\$?", text):
        raise ConfigError(f"{where} is {value!r}: expected the name of a {what}, or its number")
    if text.isdecimal() and int(text) > _MAX_ID:
        raise ConfigError(f"{where} is {value!r}: expected a number up to {_MAX_ID}")
    return text


_KEYS = tuple(field.name for field in fields(Config))
