"""Which seal there is: BPF LSM programs that enforce each grant, or none where that was asked for."""

from governed_mcpd.config import Config
from governed_mcpd.grant.seal import NoSeal, Seal, SealFailed
from governed_mcpd.kernel import lsm

REQUIRED = "required"
LSM = "lsm"  # the name of the one that the kernel enforces


class NotSealed(Exception):
    """There is no seal, and one is required. The text says what is missing and what to do."""


def choose(settings: Config) -> Seal:
    """Loads the seal, or takes up the one that an earlier daemon has left in the kernel. NotSealed."""
    lacking = lsm.missing()
    if not lacking:
        try:
            return _load()
        except SealFailed as failure:
            lacking = [str(failure)]
    if settings.seal == REQUIRED:
        raise NotSealed(
            f"seal: required, but there is none: {'; '.join(lacking)}. Without it a thread that rewrites its "
            "arguments in time can switch the object of an approved effect, within the Envelope. To run without: "
            'seal = "best-effort" in config.toml (--seal best-effort); every record then says so'
        )
    return NoSeal(lacking[0])


def _load() -> Seal:
    try:
        from governed_mcpd.grant.lsm import LsmSeal  # noqa: PLC0415 - libbpf is loaded only where it is used
    except ImportError as error:
        raise SealFailed(f"this build has no BPF LSM programs ({error})") from error
    return LsmSeal()
