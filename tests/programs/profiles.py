"""Policies under which ordinary programs may do what they do: what differs then is the sandbox's fault."""

from governed_mcpd.nouns.operation import Operation

FILES = ", ".join(operation.value for operation in Operation if operation.startswith("file."))

ROOMY = f"""kind: Profile
name: roomy
description: everything in the current directory and scratch, any program, nothing on the network
envelope:
  read: [/]
  write: ["${{cwd}}", "${{scratch}}", /dev/null, /dev/zero, /dev/full, /dev/random, /dev/urandom, /dev/tty, /dev/ptmx,
    /dev/pts, /dev/shm]
  execute: [/]
free:
  - {{operations: [{FILES}], on: "${{cwd}}/**"}}
  - {{operations: [{FILES}], on: /dev/shm/**}}
  - {{operations: [process.exec], on: /**}}
limits: {{processes: 512}}
"""

LOOPBACK = (
    ROOMY.replace("name: roomy", "name: loopback").replace("nothing on the network", "127.0.0.1")
    + """environment: {keep: [HARMLESS_TOKEN], drop: [UNWANTED]}
"""
).replace("free:\n", "free:\n  - {operations: [net.connect, net.bind, net.listen, net.send], on: 'tcp:127.0.0.1:*'}\n")

# Only `allowed` may be changed, only the system's programs may run.
NARROW = f"""kind: Profile
name: narrow
description: changes in one directory, programs of the system
envelope:
  read: ["${{cwd}}", /usr, /bin, /lib, /lib64, /etc, /proc, /dev]
  write: ["${{cwd}}/allowed", "${{scratch}}", /dev/null]
  execute: [/usr, /bin, /lib, /lib64, "${{scratch}}"]
free:
  - {{operations: [{FILES}], on: "${{cwd}}/allowed/**"}}
  - {{operations: [process.exec], on: /usr/**}}
protected: ["${{cwd}}/allowed/protected"]
"""

# Without what is protected where it may write: for that its reads would have to pause, and those of the outer one too.
NARROW_CHILD = NARROW.replace("name: narrow\n", "name: narrow-child\n").partition("protected:")[0]

# As narrow, but everything may be read and run: governedctl has to start inside.
WIDE_READING = f"""kind: Profile
name: wide-reading
description: changes in one directory, any program
envelope:
  read: [/]
  write: ["${{cwd}}/allowed", "${{scratch}}", /dev/null]
  execute: [/]
free:
  - {{operations: [{FILES}], on: "${{cwd}}/allowed/**"}}
  - {{operations: [process.exec], on: /**}}
"""

AGENT = """kind: Agent
name: default
tier: Classic
profiles: [roomy, loopback, narrow, narrow-child, wide-reading, default, strict, demo]
"""

POLICIES = {
    "agent-default.yaml": AGENT,
    "roomy.yaml": ROOMY,
    "loopback.yaml": LOOPBACK,
    "narrow.yaml": NARROW,
    "narrow-child.yaml": NARROW_CHILD,
    "wide-reading.yaml": WIDE_READING,
}
