"""Which environment variables a sandbox does not get: those that look like credentials or lead to the user's agents."""

import os
import re
from collections.abc import Iterable

from governed_mcpd.policy.documents import Environment

_CREDENTIAL = re.compile(
    rb"(^|_)(TOKEN|SECRETS?|PASSWORD|PASSWD|PASSPHRASE|PWD_FILE|CREDENTIALS?|COOKIE|AUTH|PAT)(_|$)"
    rb"|(API|ACCESS|PRIVATE|SECRET|ENCRYPTION|SIGNING)_?KEY"
    rb"|TOKEN$|PASSWORD$|SECRET$|^AWS_|^AZURE_|^GCP_|^GOOGLE_APPLICATION|^OPENAI_|^ANTHROPIC_|^HF_|^KUBECONFIG$"
    rb"|^(DATABASE|REDIS|MONGO|MONGODB|POSTGRES|AMQP)_(URL|URI|DSN)$|^PGPASS|^MYSQL_PWD$|^NETRC$|^DOCKER_(HOST|CONFIG)$",
    re.IGNORECASE,
)
# Sockets of programs that act for the user outside: ssh-agent(1), gpg-agent(1), the session bus.
_AGENTS = frozenset({b"SSH_AUTH_SOCK", b"SSH_AGENT_PID", b"GPG_AGENT_INFO", b"DBUS_SESSION_BUS_ADDRESS", b"XAUTHORITY"})


def dropped(names: Iterable[bytes], environment: Environment) -> list[bytes]:
    """The variables to drop; what the profile keeps stays, what it drops besides goes."""
    keep = {os.fsencode(name) for name in environment.keep}
    drop = {os.fsencode(name) for name in environment.drop}
    return sorted(
        name
        for name in names
        if name in drop or (name not in keep and (name in _AGENTS or _CREDENTIAL.search(name) is not None))
    )
