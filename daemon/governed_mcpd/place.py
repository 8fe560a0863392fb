"""Where the socket of an unprivileged program (governed-gate, governed-resolver) lies, as whom it runs, and that there
is only one of it. `program` is the word after `governed-`."""

import fcntl
import os
import pwd
import stat


class PlaceError(RuntimeError):
    """The program cannot run here, or not as this user. The text says what to do."""


def drop_to(user: str) -> None:
    """Becomes `user` (a name or a number) for good: groups, group, user. Raises PlaceError."""
    uid, gid = ids_of(user)
    if uid == 0:
        raise PlaceError(f"--user {user}: it does not run as root; name an ordinary user")
    try:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise PlaceError(f"cannot become {user}: {error.strerror}") from None
    if os.getresuid() != (uid, uid, uid) or os.getresgid() != (gid, gid, gid) or os.getgroups():
        raise PlaceError(f"still not {user} after setresuid: refusing to go on")


def ids_of(user: str) -> tuple[int, int]:
    """User and group id of `user` (a name, or a number that need not be in the user database). Raises PlaceError."""
    try:
        entry = pwd.getpwuid(int(user)) if user.isdecimal() else pwd.getpwnam(user)
    except KeyError:
        if user.isdecimal():
            return int(user), int(user)
        raise PlaceError(
            f"there is no user {user!r}: create it (useradd --system {user}) or name another (--user)"
        ) from None
    except OverflowError:
        raise PlaceError(f"--user {user}: no user has that number") from None
    return entry.pw_uid, entry.pw_gid


def prepare_as_root(program: str, runtime_dir: str, user: str) -> None:
    """As root, before becoming `user`: a directory of its own for the socket; `PROGRAM.sock` is a link into it.

    The runtime directory belongs to root and holds the daemon's sockets: nobody else must be able to replace those.
    """
    uid, _ = ids_of(user)
    own, name = os.path.join(runtime_dir, program), os.path.join(runtime_dir, f"{program}.sock")
    try:
        if not os.path.isdir(runtime_dir):
            os.makedirs(runtime_dir)
            # Whatever the umask: those who may use its sockets pass through.
            os.chmod(runtime_dir, 0o755)  # noqa: S103 - its sockets have permissions of their own
        owner = os.stat(runtime_dir)
        if owner.st_uid not in (0, uid) or owner.st_mode & stat.S_IWOTH:
            raise PlaceError(
                f"{runtime_dir} belongs to uid {owner.st_uid} or is open to all: expected root's directory"
            )
        if owner.st_uid == uid:
            return
        if not os.path.lexists(own):
            os.mkdir(own, 0o700)
        descriptor = os.open(own, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            os.fchown(descriptor, uid, -1)
            os.fchmod(descriptor, 0o700)
        finally:
            os.close(descriptor)
        link = f"{program}/{program}.sock"
        if not os.path.islink(name) or os.readlink(name) != link:
            if os.path.lexists(name):
                os.unlink(name)
            os.symlink(link, name)
    except OSError as error:
        raise PlaceError(f"cannot prepare {runtime_dir}: {error.strerror} ({error.filename})") from None


def claim_socket(program: str, runtime_dir: str) -> tuple[str, int]:
    """Path to bind, and a lock that has to stay open: a second one in the same place is refused. Raises PlaceError.

    A socket that a killed one left behind is removed; only the holder of the lock may do so.
    """
    directory = runtime_dir
    try:
        if os.path.islink(os.path.join(runtime_dir, f"{program}.sock")):
            directory = os.path.join(runtime_dir, program)
        else:
            os.makedirs(runtime_dir, mode=0o700, exist_ok=True)
        path = os.path.join(directory, f"{program}.sock")
        lock = os.open(
            os.path.join(directory, f"{program}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PlaceError(
                f"another {program} serves in {directory}: stop it, or use another --runtime-dir"
            ) from None
        if os.path.lexists(path):
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise PlaceError(f"{path} is in the way and no socket: remove it")
            os.unlink(path)
    except OSError as error:
        raise PlaceError(f"cannot use {directory}: {error.strerror} ({error.filename})") from None
    return path, lock


def who() -> str:
    """The user this process runs as, for messages."""
    uid = os.geteuid()
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def notify(state: str) -> None:
    """sd_notify(3), where a service manager waits for it."""
    if "NOTIFY_SOCKET" in os.environ:
        from systemd import daemon  # noqa: PLC0415 - only machines with systemd have it

        daemon.notify(state)
