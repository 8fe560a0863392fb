"""The daemon's applied policy sets on disk.

    STATE/policies/<version>/<file>   one directory per set, named by the hash of what is in it
    STATE/policies/active             the version in force, a line
    STATE/policies/previous           the one before it, for rollback

A set is written and synced under another name, then renamed: a crash leaves the old set or the new one, never half of
one. Reading back computes the hash again, so a changed or torn set is an error, never a policy.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress

from governed_mcpd.policy.load import PolicySet, read_files, version_of
from governed_mcpd.policy.problem import PolicyError

_VERSION = re.compile(r"[0-9a-f]{64}\Z")
_UNFINISHED = ".writing-"
_POINTERS = ("active", "previous")
KEPT = 32


class StoreError(Exception):
    """The store cannot be read or written; the text says what, why, and what to do."""


class PolicyStore:
    """Applied sets beneath a state directory. One process writes (the daemon)."""

    def __init__(self, state_directory: str | os.PathLike[str]) -> None:
        """Makes the directory (0700) where it is missing. Raises StoreError."""
        self._root = os.path.join(os.fspath(state_directory), "policies")
        try:
            os.makedirs(self._root, mode=0o700, exist_ok=True)
            for name in os.listdir(self._root):
                if name.startswith(_UNFINISHED):  # of a run that ended in the middle
                    shutil.rmtree(os.path.join(self._root, name), ignore_errors=True)
        except OSError as error:
            raise _failed(f"{self._root} cannot be used", error) from None

    def save(self, files: Mapping[str, bytes]) -> str:
        """Puts a set on disk without activating it; its version. The same set twice is the same version. StoreError."""
        version = version_of(files)
        final = os.path.join(self._root, version)
        try:
            if os.path.isdir(final):
                with suppress(StoreError):
                    self.files(version)
                    return version
                shutil.rmtree(final)  # what lies there is not this set: it is written again
            directory = tempfile.mkdtemp(prefix=_UNFINISHED, dir=self._root)
            for name, content in files.items():
                _write(os.path.join(directory, name), content)
            _sync_directory(directory)
            os.rename(directory, final)
            _sync_directory(self._root)
        except OSError as error:
            raise _failed(f"the policy set {version[:12]} cannot be written to {self._root}", error) from None
        return version

    def activate(self, policy: PolicySet) -> None:
        """Saves a set and makes it the active one, and the active one the previous one. StoreError."""
        version = self.save(policy.files)
        before = self.active_version()
        if before == version:
            return
        if before is not None:
            self._point("previous", before)
        self._point("active", version)
        self._remove_oldest()

    def pointers(self) -> dict[str, str | None]:
        """Which versions are `active` and `previous`, for `restore`. StoreError."""
        return {name: self._pointer(name) for name in _POINTERS}

    def restore(self, pointers: Mapping[str, str | None]) -> None:
        """Puts both back as they were, also to none. StoreError."""
        for name in _POINTERS:
            version = pointers[name]
            if version is not None:
                self._point(name, version)
            else:
                self._remove_pointer(name)

    def active(self) -> dict[str, bytes] | None:
        """The files of the set in force; None before the first. StoreError where the store does not say."""
        version = self.active_version()
        return None if version is None else self.files(version)

    def previous(self) -> dict[str, bytes] | None:
        """The files of the set that rollback goes back to; None where there is none. StoreError."""
        version = self._pointer("previous")
        return None if version is None else self.files(version)

    def active_version(self) -> str | None:
        """The version in force; None before the first. StoreError."""
        return self._pointer("active")

    def files(self, version: str) -> dict[str, bytes]:
        """The files of a saved set; their hash is its name. StoreError."""
        if not _VERSION.match(version):
            raise StoreError(f"{version[:80]!r} is not a policy version: expected 64 hex digits; see governedctl get")
        directory = os.path.join(self._root, version)
        if not os.path.isdir(directory):
            raise StoreError(f"there is no stored policy set {version[:12]} in {self._root}; apply it again")
        try:
            files = read_files(directory)
            others = sorted(set(os.listdir(directory)) - set(files))
        except (PolicyError, OSError) as error:
            raise StoreError(f"the stored policy set {version[:12]} cannot be read: {error}; apply it again") from None
        if others or version_of(files) != version:
            found = f"has a stray {others[0]!r}" if others else "does not have the content that its name is the hash of"
            raise StoreError(f"the stored policy set {directory} {found}: it was changed or torn; apply it again")
        return files

    def _point(self, name: str, version: str) -> None:
        path = os.path.join(self._root, name)
        temporary = f"{path}.new"
        try:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
            _write(temporary, f"{version}\n".encode())
            os.rename(temporary, path)
            _sync_directory(self._root)
        except OSError as error:
            raise _failed(f"{path} cannot be written", error) from None

    def _remove_pointer(self, name: str) -> None:
        path = os.path.join(self._root, name)
        try:
            with suppress(FileNotFoundError):
                os.unlink(path)
            _sync_directory(self._root)
        except OSError as error:
            raise _failed(f"{path} cannot be removed", error) from None

    def _pointer(self, name: str) -> str | None:
        path = os.path.join(self._root, name)
        try:
            with open(path, "rb") as file:
                found = file.read(128)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _failed(f"{path} cannot be read", error) from None
        version = found.decode("ascii", "replace").removesuffix("\n")
        if not _VERSION.match(version):
            raise StoreError(f"{path} holds {version[:80]!r}: expected a policy version; remove it and apply again")
        return version

    def _remove_oldest(self) -> None:
        """Keeps the active and the previous set and the newest others. What cannot be removed stays."""
        named = {self._pointer("active"), self._pointer("previous")}
        others = [name for name in os.listdir(self._root) if _VERSION.match(name) and name not in named]
        paths = sorted((os.path.join(self._root, name) for name in others), key=os.path.getmtime, reverse=True)
        for path in paths[KEPT:]:
            shutil.rmtree(path, ignore_errors=True)


def _write(path: str, content: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        view = memoryview(content)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _failed(what: str, error: OSError) -> StoreError:
    return StoreError(f"{what}: {error.strerror or error}; check the state directory, its permissions and free space")
