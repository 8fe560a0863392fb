"""The key that signs checkpoints: made at first open, kept beside the journal."""

import os
import stat

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from governed_mcpd.journal.errors import JournalKeyError
from governed_mcpd.journal.layout import CHECKPOINTS, KEY, PUBLIC_KEY, list_segments, open_private, sync_directory


def load_or_make_key(state_dir: str) -> Ed25519PrivateKey:
    """The signing key; JournalKeyError when it is missing beside a journal, unreadable, or readable by others."""
    path = os.path.join(state_dir, KEY)
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return _make_key(state_dir, path)
    except OSError as error:
        raise JournalKeyError(f"{path}: {error.strerror}: expected a regular file that only its owner reads") from None
    with os.fdopen(descriptor, "rb") as file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode) or state.st_mode & 0o077 or state.st_uid != os.geteuid():
            raise JournalKeyError(
                f"{path} has mode {stat.S_IMODE(state.st_mode):04o} and owner {state.st_uid}: expected mode 0600 and "
                f"owner {os.geteuid()}. If others could read it, they could sign checkpoints"
            )
        text = file.read(65536)
    try:
        key = serialization.load_pem_private_key(text, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise JournalKeyError(f"{path}: {error}: expected an Ed25519 key in PEM. Restore it from a backup") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise JournalKeyError(f"{path}: not an Ed25519 key. Restore it from a backup")
    _check_public(state_dir, key.public_key())
    return key


def load_public_key(path: str) -> Ed25519PublicKey:
    """A public key in PEM; JournalKeyError when it is missing or something else."""
    try:
        with open(path, "rb") as file:
            key = serialization.load_pem_public_key(file.read(65536))
    except OSError as error:
        raise JournalKeyError(f"{path}: {error.strerror}: the public key is needed to check checkpoints") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise JournalKeyError(f"{path}: {error}: expected an Ed25519 public key in PEM") from None
    if not isinstance(key, Ed25519PublicKey):
        raise JournalKeyError(f"{path}: not an Ed25519 public key")
    return key


def key_id(key: Ed25519PublicKey) -> str:
    """How checkpoints and journal.open name a key: its 32 raw bytes in hex."""
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw).hex()


def signature_fits(key: Ed25519PublicKey, signature: bytes, message: bytes) -> bool:
    """Whether `key` made this signature of `message`."""
    try:
        key.verify(signature, message)
    except InvalidSignature:
        return False
    return True


def _make_key(state_dir: str, path: str) -> Ed25519PrivateKey:
    if os.path.exists(os.path.join(state_dir, CHECKPOINTS)) or list_segments(state_dir):
        raise JournalKeyError(
            f"{path} is missing, but there is a journal that it signed. Restore the key from a backup, "
            "or move the state directory away and start with an empty one"
        )
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    # The public half first: a key file means that both are there.
    _write_new(os.path.join(state_dir, PUBLIC_KEY), _pem(key.public_key()), 0o644)
    _write_new(path, private, 0o600)
    sync_directory(state_dir)
    return key


def _check_public(state_dir: str, public: Ed25519PublicKey) -> None:
    path = os.path.join(state_dir, PUBLIC_KEY)
    if not os.path.exists(path):
        _write_new(path, _pem(public), 0o644)
        return
    if key_id(load_public_key(path)) != key_id(public):
        raise JournalKeyError(f"{path} is not the public half of {KEY}: one of them was replaced. Restore both")


def _pem(public: Ed25519PublicKey) -> bytes:
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def _write_new(path: str, content: bytes, mode: int) -> None:
    """Writes the whole file or none: a crash leaves at most a `.new` that the next attempt replaces."""
    descriptor = open_private(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.rename(path + ".new", path)
