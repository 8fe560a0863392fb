"""The object as it is built, and a host that cannot have a seal: it is told why, and nothing is left behind."""

import hashlib
import os
import subprocess
from pathlib import Path

import pytest

from governed_mcpd.grant import labels, pins
from governed_mcpd.grant.lsm import LsmSeal
from governed_mcpd.grant.seal import SealFailed
from governed_mcpd.kernel import bpf_load

ROOT = Path(__file__).resolve().parents[2]


def built(where: Path) -> str:
    """The digest of the object made from a copy of the sources."""
    subprocess.run(["cp", "-r", str(ROOT / "bpf"), str(where)], check=True)
    rules = (ROOT / "Makefile").read_text().partition("\n$(SEAL) $(NAMES): ")[2]
    rule = rules.partition("\t@cd bpf && ")[2].partition("\t@mv")[0].replace("$(notdir $(@:.o=.c))", "seal.bpf.c")
    command = rule.replace("$$", "$").replace("\\\n", " ").replace("../$@.new", "made.o")
    subprocess.run(["sh", "-c", command], cwd=where / "bpf", check=True, timeout=120)
    return hashlib.sha256((where / "bpf" / "made.o").read_bytes()).hexdigest()


def test_the_object_is_the_same_wherever_it_is_built(tmp_path: Path) -> None:
    places = [tmp_path / "one", tmp_path / "somewhere" / "else"]
    for place in places:
        place.mkdir(parents=True)
    digests = {built(place) for place in places}
    assert digests == {hashlib.sha256(pins.OBJECT.read_bytes()).hexdigest()}


def test_the_object_says_that_it_is_gpl() -> None:
    assert b"GPL\0" in pins.OBJECT.read_bytes()


def test_every_program_is_for_a_hook_of_its_own() -> None:
    with bpf_load.Object(pins.library(), str(pins.OBJECT)) as found:
        sections = [program.section for program in found.programs]
    assert all(section.startswith(("lsm/", "lsm.s/")) for section in sections)
    assert sorted(set(sections) ^ {"lsm/inode_setattr"}) == sorted(
        section for section in sections if section != "lsm/inode_setattr"
    )


def test_a_host_that_refuses_says_why(tmp_path: Path) -> None:
    # Machines that do load such programs have the real tests, in vm-tests.
    why = pins.probe()
    assert why == "" or "BPF" in why or "libbpf" in why
    place = f"{tmp_path}/pins"
    with pytest.raises(SealFailed, match="mount -t bpf"):
        LsmSeal(pins_at=place)
    assert not os.path.exists(place)


def test_an_object_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SealFailed, match=r"make build"):
        pins.version(tmp_path / "none.o")
    assert pins.probe(tmp_path / "none.o") != ""


def test_nothing_to_unload_is_fine(tmp_path: Path) -> None:
    pins.unload(str(tmp_path / "none"))


def test_a_partial_seal_is_fatal(tmp_path: Path) -> None:
    place = tmp_path / "pins"
    for directory in ("maps", "programs", "links"):
        (place / directory).mkdir(parents=True)
    with pytest.raises(SealFailed, match="not a whole seal"):
        pins.complete(pins.OBJECT, str(place))
    (place / "version").symlink_to("layout-0-aa")
    with pytest.raises(SealFailed, match="another version"):
        pins.complete(pins.OBJECT, str(place))


def test_mounts_are_read_with_their_odd_names(tmp_path: Path) -> None:
    odd = tmp_path / "a b\\c"
    odd.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "seal-test", str(odd)], check=True)
    try:
        device = os.stat(odd).st_dev
        found = [mount for mount in labels.mounts() if mount[0] == str(odd)]
        assert found == [(str(odd), os.major(device) << 20 | os.minor(device), "/")]
        assert labels.mounted_beneath(str(tmp_path)) == [str(odd)]
        assert labels.mounted_beneath(str(odd)) == []
    finally:
        subprocess.run(["umount", str(odd)], check=True)
