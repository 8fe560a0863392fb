"""How gRPC carries messages between daemon and gate. To be imported before grpc, which reads this once.

gRPC's newer event engine hands every read and write to threads of its own; on a local socket, where one side always
waits for the other, that is two more wake-ups for each message. The poller that it had before reads where one waits.
A version of gRPC that does not know one of these names says so on stderr and goes on. While nobody waits, it looks at
its connections only now and then (every five seconds by itself): a gate that ends waits for as long until the daemon
has closed its end.

Nor is it to revive itself in a child of fork(2), as it does by default: the threads that it starts there abort the
child when its descriptors are closed on the way to execve(2) (github.com/grpc/grpc/issues/43055). No child uses its
parent's channels here.
"""

import os

_POLLS_WHERE_IT_WAITS = "-event_engine_client,-event_engine_listener,-event_engine_callback_cq"
_LOOKS_EVERY_MS = "500"

os.environ.setdefault("GRPC_EXPERIMENTS", _POLLS_WHERE_IT_WAITS)
os.environ.setdefault("GRPC_CLIENT_CHANNEL_BACKUP_POLL_INTERVAL_MS", _LOOKS_EVERY_MS)
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
