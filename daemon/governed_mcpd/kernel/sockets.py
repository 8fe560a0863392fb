"""What a socket says of itself that Python has no wrapper for: unix(7), linux/un.h."""

import fcntl
import os

SIOCUNIXFILE = 0x89E0  # linux/un.h, SIOCPROTOPRIVATE + 0


def unix_file(descriptor: int) -> int:
    """An O_PATH descriptor on the file that a unix socket is bound to, wherever it has been moved since. Needs
    CAP_NET_ADMIN. OSError: EPERM without it, ENOENT for a socket without a file."""
    opened: int = fcntl.ioctl(descriptor, SIOCUNIXFILE)
    os.set_inheritable(opened, False)
    return opened
