"""One instance for the tests of a module."""

from collections.abc import Iterator

import pytest

from tests.handles.daemon import TellingInstance

PROFILE = """
kind: Profile
name: free
envelope: {read: [/], write: ["${cwd}", /dev/null, /dev/tty], execute: [/]}
protected: ["${cwd}/secrets", "${cwd}/token"]
free:
  - {operations: [process.exec], on: /**}
  - operations: [file.write, file.create, file.truncate, file.unlink, file.rmdir, file.mkdir, file.rename, file.link,
                 file.symlink, file.mknod, file.chmod, file.chown, file.xattr, file.times, net.connect, net.bind,
                 net.listen]
    on: "${cwd}/**"
"""
PAUSED = PROFILE.replace("name: free", "name: paused\nreads: pause").replace(
    "[file.write, ", "[file.read, file.write, "
)
WIDE = PROFILE.replace("name: free", "name: wide").replace("/dev/null, /dev/tty", "/dev/null, /dev/tty, /tmp")
AGENT = "{kind: Agent, name: default, tier: Classic, profiles: [free, paused, wide, default]}\n"


POLICIES = {
    "profile-free.yaml": PROFILE,
    "profile-paused.yaml": PAUSED,
    "profile-wide.yaml": WIDE,
    "agent-default.yaml": AGENT,
}


@pytest.fixture(scope="module")
def instance() -> Iterator[TellingInstance]:
    with TellingInstance(policies=POLICIES) as made:
        yield made
