"""Which variables look like credentials, and which only sound a little like them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from governed_mcpd.policy.documents import Environment
from governed_mcpd.subjects.environment import dropped

PLAIN = Environment()
CREDENTIALS = [
    "GITHUB_TOKEN",
    "GH_TOKEN",
    "TOKEN",
    "NPM_TOKEN",
    "my_token",
    "SLACK_BOT_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_ACCESS_KEY_ID",
    "AWS_PROFILE",
    "AZURE_CLIENT_SECRET",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "OPENAI_API_KEY",
    "ANTHROPIC_API_KEY",
    "HF_TOKEN",
    "HF_HOME_TOKEN",
    "APIKEY",
    "API_KEY",
    "STRIPE_APIKEY",
    "PGPASSWORD",
    "PGPASSFILE",
    "MYSQL_PWD",
    "MYSQL_PASSWORD",
    "DB_PASSWD",
    "PASSWORD",
    "PASSPHRASE",
    "SSH_PRIVATE_KEY",
    "SIGNING_KEY",
    "ENCRYPTION_KEY",
    "DATABASE_URL",
    "REDIS_URL",
    "MONGODB_URI",
    "POSTGRES_DSN",
    "KUBECONFIG",
    "NETRC",
    "DOCKER_CONFIG",
    "DOCKER_HOST",
    "GIT_ASKPASS_SECRET",
    "SESSION_COOKIE",
    "BASIC_AUTH",
    "GITLAB_PAT",
    "CLIENT_SECRETS",
    "VAULT_TOKEN",
    "SSH_AUTH_SOCK",
    "GPG_AGENT_INFO",
    "DBUS_SESSION_BUS_ADDRESS",
    "XAUTHORITY",
    "DJANGO_SECRET_KEY",
    "SECRET_KEY_BASE",
    "AUTH_TOKEN",
    "accessToken",
]
ORDINARY = [
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "TERM",
    "SHELL",
    "EDITOR",
    "PWD",
    "OLDPWD",
    "TMPDIR",
    "XDG_RUNTIME_DIR",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "NODE_ENV",
    "CC",
    "CFLAGS",
    "DISPLAY",
    "COLORTERM",
    "KEYBOARD",
    "MONKEY_ISLAND",
    "TOKENIZERS_PARALLELISM",
    "AUTHOR",
    "GIT_AUTHOR_NAME",
    "GIT_AUTHOR_EMAIL",
    "PATTERN",
    "SPATIAL",
    "PATCHES",
    "COMPAT",
    "DEBUG",
    "PIP_INDEX_URL",
    "NO_PROXY",
    "LS_COLORS",
    "HISTFILE",
    "XPC_SERVICE_NAME",
    "GOVERNED_SANDBOX",
]


@pytest.mark.parametrize("name", CREDENTIALS)
def test_what_looks_like_a_credential_is_dropped(name: str) -> None:
    assert dropped([name.encode()], PLAIN) == [name.encode()]


@pytest.mark.parametrize("name", ORDINARY)
def test_what_does_not_stays(name: str) -> None:
    assert dropped([name.encode()], PLAIN) == []


def test_a_profile_has_the_last_word() -> None:
    names = [b"GITHUB_TOKEN", b"OTHER_TOKEN", b"LANG", b"PATH"]
    assert dropped(names, Environment(keep=["GITHUB_TOKEN"], drop=["LANG"])) == [b"LANG", b"OTHER_TOKEN"]
    assert dropped(names, Environment(keep=["LANG"], drop=["LANG"])) == [b"GITHUB_TOKEN", b"LANG", b"OTHER_TOKEN"]


@given(st.lists(st.binary(max_size=30), max_size=10))
def test_names_of_any_bytes(names: list[bytes]) -> None:
    found = dropped(names, PLAIN)
    assert found == sorted(found)
    assert set(found) <= set(names)
    assert dropped([name for name in names if name not in found], PLAIN) == []
