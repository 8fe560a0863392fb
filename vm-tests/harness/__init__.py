"""Boots Debian kernels under QEMU and runs what it is given inside; see vm-tests/README.md."""
