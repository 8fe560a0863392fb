"""A Subject in a sandbox, for what decides without a kernel: no process stands behind it."""

from governed_mcpd.kernel.cgroup import Cgroup, Hierarchy
from governed_mcpd.nouns.subject import Subject, Tier
from governed_mcpd.policy.documents import Profile
from governed_mcpd.subjects import rules
from governed_mcpd.subjects.sandbox import Acting, Sandbox

HIERARCHY = Hierarchy("/nonexistent", "/")
SCRATCH = "/run/governed-test/scratch/one"


def profile(name: str = "p", **fields: object) -> Profile:
    """A Profile from its fields; what it may read, write and run is /work and more."""
    envelope = {"read": ["/work", "/usr"], "write": ["/work"], "execute": ["/usr"]}
    return Profile.model_validate({"kind": "Profile", "name": name, "envelope": envelope, **fields}, strict=False)


def acting(*profiles: Profile, scratch: str = SCRATCH) -> Acting:
    """A Subject under a chain of profiles, the outermost first."""
    places = rules.Places("/work", "/home/u", scratch)
    own = profiles or (profile(),)
    subject = Subject("agent", Tier.CLASSIC, "one", 1000, own[-1].name)
    return Acting(subject, tuple(rules.make(each, places) for each in own), "", Cgroup(HIERARCHY, "/one"), (b"x",), 1)


def sandbox(main: Acting, *, terminal: int = 0) -> Sandbox:
    """The sandbox of a Subject."""
    one = Sandbox("one", 1000, 1000, main, SCRATCH, lambda notice: None, "token")
    one.terminal = terminal
    return one
