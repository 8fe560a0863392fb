"""Loading a CO-RE object with libbpf (Debian package libbpf1), and questions about the running kernel's BTF."""

import contextlib
import ctypes as c
import os
from collections.abc import Iterator

_PRINT = c.CFUNCTYPE(c.c_int, c.c_int, c.c_char_p, c.c_void_p)
_KIND_FUNC = 12  # linux/btf.h BTF_KIND_FUNC
_WARN = 0  # bpf/libbpf.h LIBBPF_WARN
_TOLD_MOST = 40
_LINE_BYTES = 1 << 20  # a verifier log comes in one line, and what matters is at its end


class LoadFailed(Exception):
    """The kernel or libbpf refused. `told` is the end of what libbpf said about it."""

    def __init__(self, what: str, number: int, told: list[str]) -> None:
        self.errno = number
        self.told = told
        super().__init__("; ".join([f"{what}: {os.strerror(number)}", *told[-6:]]))


class _BtfType(c.Structure):
    """linux/btf.h: struct btf_type."""

    _fields_ = (("name", c.c_uint32), ("info", c.c_uint32), ("type", c.c_uint32))


_SIGNATURES = {
    "bpf_object__open_file": (c.c_void_p, (c.c_char_p, c.c_void_p)),
    "bpf_object__load": (c.c_int, (c.c_void_p,)),
    "bpf_object__close": (None, (c.c_void_p,)),
    "bpf_object__next_program": (c.c_void_p, (c.c_void_p, c.c_void_p)),
    "bpf_object__next_map": (c.c_void_p, (c.c_void_p, c.c_void_p)),
    "bpf_program__name": (c.c_char_p, (c.c_void_p,)),
    "bpf_program__section_name": (c.c_char_p, (c.c_void_p,)),
    "bpf_program__set_autoload": (c.c_int, (c.c_void_p, c.c_bool)),
    "bpf_program__autoload": (c.c_bool, (c.c_void_p,)),
    "bpf_program__fd": (c.c_int, (c.c_void_p,)),
    "bpf_program__attach": (c.c_void_p, (c.c_void_p,)),
    "bpf_link__fd": (c.c_int, (c.c_void_p,)),
    "bpf_link__destroy": (c.c_int, (c.c_void_p,)),
    "bpf_map__name": (c.c_char_p, (c.c_void_p,)),
    "bpf_map__fd": (c.c_int, (c.c_void_p,)),
    "btf__load_vmlinux_btf": (c.c_void_p, ()),
    "btf__find_by_name_kind": (c.c_int, (c.c_void_p, c.c_char_p, c.c_uint32)),
    "btf__type_by_id": (c.POINTER(_BtfType), (c.c_void_p, c.c_uint32)),
    "btf__free": (None, (c.c_void_p,)),
    "libbpf_set_print": (c.c_void_p, (c.c_void_p,)),
}


class Library:
    """libbpf.so.1. OSError when it is not installed."""

    def __init__(self) -> None:
        self.so = c.CDLL("libbpf.so.1", use_errno=True)
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self.so, name)
            function.restype = result
            function.argtypes = arguments
        self._vsnprintf = c.CDLL(None).vsnprintf
        self._vsnprintf.argtypes = (c.c_void_p, c.c_size_t, c.c_char_p, c.c_void_p)
        self.told: list[str] = []
        self._print = _PRINT(self._hear)  # kept: libbpf keeps the pointer
        self.so.libbpf_set_print(self._print)

    def _hear(self, level: int, form: bytes, arguments: int) -> int:
        if level == _WARN:
            line = c.create_string_buffer(_LINE_BYTES)
            self._vsnprintf(line, _LINE_BYTES, form, arguments)
            self.told += line.value.decode(errors="replace").strip().splitlines()
            del self.told[:-_TOLD_MOST]
        return 0

    def failed(self, what: str) -> LoadFailed:
        """What went wrong last."""
        return LoadFailed(what, c.get_errno(), list(self.told))


class KernelTypes:
    """The running kernel's BTF: which functions it has, and with how many parameters."""

    def __init__(self, library: Library) -> None:
        self._so = library.so
        self._btf = self._so.btf__load_vmlinux_btf()
        if not self._btf:
            raise library.failed("reading the kernel's BTF (/sys/kernel/btf/vmlinux)")

    def parameters(self, function: str) -> int | None:
        """How many parameters a function of the kernel has; None when there is no such function."""
        found = self._so.btf__find_by_name_kind(self._btf, function.encode(), _KIND_FUNC)
        if found <= 0:
            return None
        prototype = self._so.btf__type_by_id(self._btf, found).contents.type
        return int(self._so.btf__type_by_id(self._btf, prototype).contents.info & 0xFFFF)

    def close(self) -> None:
        """Gives the memory back."""
        self._so.btf__free(self._btf)


class Program:
    """A program of an object."""

    def __init__(self, library: Library, pointer: int) -> None:
        self._library = library
        self._pointer = pointer
        self.name: str = library.so.bpf_program__name(pointer).decode()
        self.section: str = library.so.bpf_program__section_name(pointer).decode()

    def leave_out(self) -> None:
        """Will not be loaded."""
        self._library.so.bpf_program__set_autoload(self._pointer, False)

    @property
    def wanted(self) -> bool:
        """Whether it is, or will be, loaded."""
        return bool(self._library.so.bpf_program__autoload(self._pointer))

    @property
    def descriptor(self) -> int:
        """Of the loaded program; the object's."""
        return int(self._library.so.bpf_program__fd(self._pointer))

    @contextlib.contextmanager
    def attached(self) -> Iterator[int]:
        """Attaches it; the descriptor of the link. It ends with the block unless it was pinned. LoadFailed."""
        link = self._library.so.bpf_program__attach(self._pointer)
        if not link:
            raise self._library.failed(f"attaching {self.name}")
        try:
            yield int(self._library.so.bpf_link__fd(link))
        finally:
            self._library.so.bpf_link__destroy(link)


class Object:
    """An object file, opened; `load` puts what is wanted of it into the kernel. Use as a context manager."""

    def __init__(self, library: Library, path: str) -> None:
        self._library = library
        self._so = library.so
        self._pointer = self._so.bpf_object__open_file(os.fsencode(path), None)
        if not self._pointer:
            raise library.failed(f"opening {path}")
        self.programs = [Program(library, one) for one in self._each(self._so.bpf_object__next_program)]

    def _each(self, following: "c._NamedFuncPointer") -> Iterator[int]:
        one = following(self._pointer, None)
        while one:
            yield one
            one = following(self._pointer, one)

    def load(self) -> None:
        """LoadFailed."""
        if self._so.bpf_object__load(self._pointer) != 0:
            raise self._library.failed("loading the programs")

    def maps(self) -> dict[str, int]:
        """Name → descriptor, the object's, once loaded."""
        found = list(self._each(self._so.bpf_object__next_map))
        return {self._so.bpf_map__name(one).decode(): self._so.bpf_map__fd(one) for one in found}

    def __enter__(self) -> "Object":
        return self

    def __exit__(self, *_: object) -> None:
        self._so.bpf_object__close(self._pointer)
