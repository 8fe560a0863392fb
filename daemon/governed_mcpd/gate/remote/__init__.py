"""Many gates: a balancer that leaves layers 4 and 5 to remote gates, and the remote gate's side of that.

The modules are imported only where they are used: what reads certificates takes a tenth of a gate's start.
"""

SERVICE = "governed.v1.Gate"
LAYERS = frozenset(("prefilter", "probe"))


class AuthorityError(RuntimeError):
    """Certificates that cannot be made or read. The text says which file, why, and what to do."""
