"""What is in the package that `make deb` has just built; run by it, and not by `make test`."""

import os
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from governed_mcpd import __version__

ROOT = Path(__file__).resolve().parents[2]
DEB = ROOT / "build" / f"governed-mcpd_{__version__}_amd64.deb"
PREFIX = "usr/lib/governed-mcpd"
SITE = f"{PREFIX}/lib/python3.11/site-packages"
PROGRAMS = ("governed-mcpd", "governed-gate", "governed-resolver", "governedctl")
# Files lie beneath one of these, or are one of these.
ALLOWED = (
    f"{PREFIX}/",
    "usr/share/governed-mcpd/policies/",
    "usr/share/doc/governed-mcpd/",
    *(f"usr/bin/{program}" for program in PROGRAMS),
    "usr/share/man/man1/governedctl.1.gz",
    "usr/share/man/man8/governed-mcpd.8.gz",
    "usr/share/man/man8/governed-gate.8.gz",
    "usr/share/man/man8/governed-resolver.8.gz",
    "usr/share/bash-completion/completions/governedctl",
    "usr/share/zsh/vendor-completions/_governedctl",
    "usr/share/lintian/overrides/governed-mcpd",
    "usr/lib/sysusers.d/governed-mcpd.conf",
    "usr/lib/tmpfiles.d/governed-mcpd.conf",
    "lib/systemd/system/governed-mcpd.service",
    "lib/systemd/system/governed-gate.service",
    "lib/systemd/system/governed-orphans.service",
    "lib/systemd/system/governed-resolver.service",
    "lib/systemd/system/governed.slice",
    "etc/governed-mcpd/config.toml",
)


def run(*words: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        words, capture_output=True, text=True, timeout=300, check=False, stdin=subprocess.DEVNULL, env=env
    )


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, unpacked, with the interpreter that it depends on."""
    directory = tmp_path_factory.mktemp("deb")
    done = run("dpkg-deb", "--extract", DEB, directory)
    assert done.returncode == 0, done.stderr
    (directory / "usr/bin/python3.11").symlink_to("/usr/bin/python3.11")
    return directory


@pytest.fixture(scope="module")
def members() -> dict[str, tarfile.TarInfo]:
    """What the package says of each file, by name."""
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", DEB], stdout=subprocess.PIPE) as packed:
        assert packed.stdout is not None
        with tarfile.open(fileobj=packed.stdout, mode="r|") as archive:
            return {member.name.removeprefix("./"): member for member in archive}


def test_nothing_lies_elsewhere(members: dict[str, tarfile.TarInfo]) -> None:
    files = [name for name, member in members.items() if not member.isdir()]
    assert [name for name in files if not name.startswith(ALLOWED)] == []
    assert [place for place in ALLOWED if not any(name.startswith(place) for name in files)] == []


def test_everything_is_roots_and_nobody_elses_to_write(members: dict[str, tarfile.TarInfo]) -> None:
    assert {(member.uid, member.gid) for member in members.values()} == {(0, 0)}
    loose = [name for name, member in members.items() if not member.issym() and member.mode & 0o7022]
    assert loose == []


def test_nothing_names_the_place_where_it_was_built(tree: Path) -> None:
    for place in (ROOT, ROOT / ".build"):
        done = run("grep", "--recursive", "--files-with-matches", "--fixed-strings", "--", str(place), tree)
        assert done.stdout == ""


def test_links_lead_within_the_package_or_to_what_it_depends_on(members: dict[str, tarfile.TarInfo]) -> None:
    found = {name: member.linkname for name, member in members.items() if member.issym()}
    links = {name: os.path.normpath(f"{name}/../{leads}") for name, leads in found.items()}
    assert links == {
        **{f"usr/bin/{program}": f"{PREFIX}/bin/{program}" for program in PROGRAMS},
        f"{PREFIX}/bin/python3": "usr/bin/python3.11",
        f"{SITE}/bcc": "usr/lib/python3/dist-packages/bcc",
    }


def test_programs_start_the_environments_own_python_and_nothing_of_the_users(tree: Path) -> None:
    for program in PROGRAMS:
        first = (tree / PREFIX / "bin" / program).read_text().splitlines()[0]
        assert first == f"#!/{PREFIX}/bin/python3 -I"


def test_programs_run_from_where_they_were_unpacked(tree: Path) -> None:
    python = tree / PREFIX / "bin/python3"
    for program in PROGRAMS:
        done = run(python, "-I", tree / PREFIX / "bin" / program, "--version")
        assert (done.returncode, __version__ in done.stdout) == (0, True), done.stderr
    ctl = (python, "-I", tree / PREFIX / "bin/governedctl")
    done = run(*ctl, "validate", "-f", tree / "usr/share/governed-mcpd/policies")
    assert done.returncode == 0, done.stderr


def test_every_module_is_there_and_compiled_and_nothing_of_the_checkouts_environment(tree: Path) -> None:
    program = (
        "import importlib, pkgutil, sys, governed_mcpd\n"
        "for found in pkgutil.walk_packages(governed_mcpd.__path__, 'governed_mcpd.'):\n"
        "    if not found.name.endswith(('__main__', '.train')): importlib.import_module(found.name)\n"
        "print(*{module.__cached__ for module in sys.modules.values() if getattr(module, '__cached__', None)})\n"
        "print(*{getattr(module, '__file__', None) or '' for module in sys.modules.values()})\n"
    )
    done = run(tree / PREFIX / "bin/python3", "-I", "-c", program)
    assert done.returncode == 0, done.stderr
    compiled, sources = done.stdout.splitlines()
    assert [path for path in compiled.split() if path.startswith(str(tree)) and not Path(path).exists()] == []
    allowed = (str(tree), "/usr/lib/python3.11/", "/usr/lib/python3/dist-packages/bcc/")
    assert [path for path in sources.split() if not path.startswith(allowed)] == []


def test_no_tools_of_those_who_develop(tree: Path) -> None:
    present = {path.name for path in (tree / SITE).iterdir()}
    assert present & {"pip", "setuptools", "pytest", "mypy", "ruff", "hypothesis", "grpc_tools", "mcp"} == set()


def test_the_seal_is_in_it(tree: Path) -> None:
    seal = tree / SITE / "governed_mcpd/grant/seal.bpf.o"
    listed = run("readelf", "--file-header", "--section-headers", "--wide", seal).stdout
    assert "Linux BPF" in listed
    assert {".BTF", ".BTF.ext", "license"} <= {*listed.split()}


def test_what_compiled_modules_link_is_depended_on(tree: Path) -> None:
    depends = {re.split(r"[ (|]", one.strip())[0] for one in run("dpkg-deb", "-f", DEB, "Depends").stdout.split(",")}
    # The last three are loaded by name (ctypes), so that nothing but this says that they are needed.
    assert {"libc6", "libcap2", "libsystemd0", "libstdc++6", "libbpf1", "libseccomp2", "python3"} <= depends
    for library in (tree / SITE).rglob("*.so*"):
        assert "not found" not in run("ldd", library).stdout, library


def test_completion_is_taken_by_the_shell(tree: Path) -> None:
    bash = tree / "usr/share/bash-completion/completions/governedctl"
    done = run("bash", "-c", f"source {bash} && complete -p governedctl")
    assert done.returncode == 0, done.stderr
    assert "_governedctl_completion" in done.stdout
    asked = {"_GOVERNEDCTL_COMPLETE": "complete_bash", "COMP_WORDS": "governedctl sand", "COMP_CWORD": "1", "PATH": ""}
    done = run(tree / PREFIX / "bin/python3", "-I", tree / PREFIX / "bin/governedctl", env=asked)
    assert done.stdout.split() == ["sandbox"]
    zsh = (tree / "usr/share/zsh/vendor-completions/_governedctl").read_text()
    assert zsh.startswith("#compdef governedctl\n")


def test_lintian_finds_no_errors() -> None:
    done = run("lintian", "--allow-root", "--fail-on", "error", "--tag-display-limit", "0", DEB)
    assert done.returncode == 0, done.stdout
    assert [line for line in done.stdout.splitlines() if line.startswith("E:")] == []
    unused = [line for line in done.stdout.splitlines() if "unused-override" in line or "mismatched-override" in line]
    assert unused == []


def test_each_lintian_override_gives_a_reason() -> None:
    lines = (ROOT / "packaging/debian/governed-mcpd.lintian-overrides").read_text().splitlines()
    reasons = 0
    for line in lines:
        reasons = reasons + 1 if line.startswith("#") else reasons
        assert line.startswith("#") or reasons, f"{line} stands before any reason"
    assert any(line.startswith("governed-mcpd: ") for line in lines)


def test_an_upgrade_restarts_what_runs_once_and_the_daemon_first(tmp_path: Path) -> None:
    """With a gate that stopped before it, a daemon refuses what it is asked (vm-tests/package.py sees the order)."""
    done = run("dpkg-deb", "--control", DEB, tmp_path)
    assert done.returncode == 0, done.stderr
    script = (tmp_path / "postinst").read_text()
    restarts = re.findall(r"deb-systemd-invoke \S*restart (.*?) \|\|", script)
    assert [line.split() for line in restarts] == [[f"{name}.service" for name in PROGRAMS[:3]]]
