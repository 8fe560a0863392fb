"""What a side effect does. One word per operation; the pause table, policies, records and the seal use these."""

from enum import StrEnum


class Operation(StrEnum):
    """The operations of side effects, as they are written in policies and records."""

    FILE_READ = "file.read"
    FILE_WRITE = "file.write"
    FILE_CREATE = "file.create"
    FILE_TRUNCATE = "file.truncate"
    FILE_UNLINK = "file.unlink"
    FILE_RMDIR = "file.rmdir"
    FILE_RENAME = "file.rename"
    FILE_LINK = "file.link"
    FILE_SYMLINK = "file.symlink"
    FILE_MKDIR = "file.mkdir"
    FILE_MKNOD = "file.mknod"
    FILE_CHMOD = "file.chmod"
    FILE_CHOWN = "file.chown"
    FILE_XATTR = "file.xattr"
    FILE_TIMES = "file.times"
    FILE_IOCTL = "file.ioctl"
    NET_CONNECT = "net.connect"
    NET_BIND = "net.bind"
    NET_LISTEN = "net.listen"
    NET_SEND = "net.send"
    NET_RESOLVE = "net.resolve"
    PROCESS_EXEC = "process.exec"
    PROCESS_SIGNAL = "process.signal"

    # As words they are equal and as words they are looked up: Enum's own hash runs in Python, at every look.
    __hash__ = str.__hash__


FILE_CHANGES = frozenset(op for op in Operation if op.startswith("file.") and op is not Operation.FILE_READ)
# Of sockets. Looking up a name is done by governed-resolver; its object is no endpoint.
NETWORK = frozenset(op for op in Operation if op.startswith("net.") and op is not Operation.NET_RESOLVE)
