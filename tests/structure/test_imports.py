"""What a service imports at its start, and what the garbage collector then does with it."""

import subprocess
import sys

_FOR_GOOD = """
import gc
from governed_mcpd import imports

def counted():
    return gc.get_freeze_count(), gc.isenabled()

assert counted() == (0, True)
try:
    with imports.for_good():
        import json
        assert not gc.isenabled()
        raise ImportError("one that fails")
except ImportError:
    pass
frozen, collects = counted()
assert frozen > 1000 and collects, (frozen, collects)
decoder = id(json.JSONDecoder)
assert decoder not in {id(one) for one in gc.get_objects()}
gc.disable()
with imports.for_good():
    pass
assert not gc.isenabled(), "who had none before has none afterwards"
"""


def python(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_what_is_imported_for_good_is_not_looked_at_again() -> None:
    python(_FOR_GOOD)


def test_a_gate_without_remote_gates_has_nothing_that_reads_certificates() -> None:
    python(
        "import sys, governed_mcpd.gate.service, governed_mcpd.gate.probe.selftest\n"
        "assert not [name for name in sys.modules if name.startswith(('cryptography', 'governed_mcpd.gate.remote.'))]\n"
        "import governed_mcpd.gate.remote.layers\n"
        "assert 'cryptography.x509' in sys.modules, 'with them it has'"
    )
