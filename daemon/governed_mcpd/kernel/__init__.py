"""Everything that speaks to the kernel by number: system calls, ioctls, structures. No other room knows one."""
