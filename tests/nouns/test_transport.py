"""What importing `nouns.transport` before grpc settles, in processes of their own."""

import subprocess
import sys

import pytest

# A child of fork(2) (which subprocess takes where it has to change the user) while another thread has a call in flight:
# gRPC's fork handlers, where they are active, say that they cannot run then.
PROGRAM = """
import os
import subprocess
import tempfile
import threading
{first}
import grpc
channel = grpc.insecure_channel("unix:" + tempfile.mkdtemp() + "/nobody")
call = channel.unary_unary("/a/b")
waiting = threading.Thread(target=lambda: call.future(b"", timeout=2, wait_for_ready=True).exception())
waiting.start()
for _ in range(20):
    subprocess.run(["/bin/true"], user=os.getuid(), check=True, timeout=20)
waiting.join()
"""


@pytest.mark.parametrize("settled", [True, False])
def test_grpc_does_nothing_in_children(settled: bool) -> None:
    first = "import governed_mcpd.nouns.transport" if settled else ""
    program = [sys.executable, "-c", PROGRAM.format(first=first)]
    ran = subprocess.run(program, env={}, capture_output=True, text=True, timeout=60, check=True)
    assert ("fork" in ran.stderr) is not settled, ran.stderr
