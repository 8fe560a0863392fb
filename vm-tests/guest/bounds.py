"""How long anything may take in a guest before it counts as a hang.

An emulated machine on a busy host is slow by a factor that nobody knows, so clocks inside say little. What bounds a
machine is its processor time, outside (harness/machine.py); this only ends what would never end, with a message.
"""

HANG = 900  # seconds
