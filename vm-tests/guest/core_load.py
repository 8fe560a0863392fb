import sys, time

sys.path.insert(0, "/root/seal/daemon")
from governed_mcpd.kernel import bpf_load

lib = bpf_load.Library()


def hear(level, form, arguments):
    return 0


t = bpf_load.KernelTypes(lib)
obj = sys.argv[1]
import contextlib


def opened(only=None):
    o = bpf_load.Object(lib, obj)
    for p in o.programs:
        hook = p.section.split("/")[1]
        n = t.parameters("bpf_lsm_" + hook)
        if n is None:
            print("no hook", p.name) if only is None else 0
            p.leave_out()
        if p.name == "times_of_dentry" and n != 2:
            p.leave_out()
        if p.name == "times_with_idmap" and n != 3:
            p.leave_out()
        if only and p.name not in only:
            p.leave_out()
    return o


if len(sys.argv) > 2:
    names = sys.argv[2:]
else:
    o = opened()
    names = [p.name for p in o.programs if p.wanted]
    o.__exit__()
bad = []
for n in names:
    lib.told.clear()
    o = opened([n])
    try:
        o.load()
        for p in o.programs:
            if p.wanted:
                with p.attached() as l:
                    pass
    except bpf_load.LoadFailed as f:
        bad.append(n)
        print("BAD", n, f.errno)
        print("\n".join(f.told[-14:]))
    o.__exit__()
print("bad:", bad)
if not bad:
    t0 = time.time()
    o = opened()
    o.load()
    print("loaded all", time.time() - t0)
    with contextlib.ExitStack() as s:
        for p in o.programs:
            if p.wanted:
                s.enter_context(p.attached())
        print("attached all", time.time() - t0)
