"""Capabilities that python-prctl does not know by number (it knows those of the headers it was built with)."""

import ctypes
import os

_PR_CAPBSET_DROP = 24  # linux/prctl.h
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def drop_from_bounding_set(capability: int) -> None:
    """prctl(2) PR_CAPBSET_DROP; needs CAP_SETPCAP. OSError."""
    if _prctl(_PR_CAPBSET_DROP, ctypes.c_ulong(capability), 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"dropping capability {capability}: {os.strerror(number)}")
