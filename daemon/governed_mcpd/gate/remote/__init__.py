"""Many gates: a balancer that leaves layers 4 and 5 to remote gates, and the remote gate's side of that."""

SERVICE = "governed.v1.Gate"
LAYERS = frozenset(("prefilter", "probe"))
