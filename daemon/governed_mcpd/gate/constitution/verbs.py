"""What single programs do with their words. A table maps a program's name to a check: does this command line do it?"""

import os.path
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from governed_mcpd.gate.constitution import known
from governed_mcpd.gate.constitution.known import words
from governed_mcpd.gate.constitution.places import beneath, harmless, meaning
from governed_mcpd.gate.constitution.shell import Simple


@dataclass(frozen=True, slots=True)
class Around:
    """Where the command line runs: the task's directories (the first is the current one) and the user's home."""

    directories: tuple[str, ...]
    home: str

    def absolute(self, text: str) -> str:
        """A word as a path, by its letters alone."""
        if self.home and text.startswith("~/"):
            text = self.home + text[1:]
        elif self.home:
            text = re.sub(r"\A\$(HOME|\{HOME\})(?=/)", lambda _: self.home, text)
        base = self.directories[0] if self.directories else "/"
        return "/" + os.path.normpath(os.path.join(base, text)).lstrip("/")


Check = Callable[[Simple, Around], bool]
Table = Mapping[str, Check]


def any_of(table: Table, commands: Iterable[Simple], around: Around) -> bool:
    """Whether one of the commands does what the table is about."""
    for command in commands:
        check = table.get(command.name)
        if check is not None and check(command, around):
            return True
    return False


def always(_command: Simple, _around: Around) -> bool:
    return True


def _with_words(command: Simple, _around: Around) -> bool:
    return len(command.words) > 1 and command.words[1] not in ("-l", "-s", "--list", "--help", "--version", "-V")


# ---- more rights -----------------------------------------------------------------------------------------------------

_SET_ID = re.compile(r"[ugoa]*[+=][rwxXt]*s|0*[2-7][0-7]{3}\Z")
_CONTAINER_RIGHTS = re.compile(
    r"--privileged|--pid[= ]host|--cap-add|docker\.sock|(?:-v|--volume|--mount)[= ]\S*/[a-z.]*:"
)


def _chmod_set_id(command: Simple, _around: Around) -> bool:
    return any(_SET_ID.match(word) for word in command.words[1:3])


def _install_set_id(command: Simple, _around: Around) -> bool:
    return any(re.match(r"(-m|--mode=)?0*[2-7][0-7]{3}\Z", word) for word in command.words[1:])


def _container(command: Simple, _around: Around) -> bool:
    return _CONTAINER_RIGHTS.search(" ".join(command.words)) is not None


ESCALATION: Table = {
    **dict.fromkeys(
        words("""
        sudo sudoedit su doas pkexec runuser run0 setpriv newgrp sg gksu gksudo kdesu kdesudo beesu machinectl
        systemd-run nsenter chroot capsh setcap newuidmap newgidmap useradd usermod userdel adduser deluser groupadd
        groupmod gpasswd passwd chpasswd visudo vipw vigr chsh chfn chage calife super ktutil
        """),
        always,
    ),
    **dict.fromkeys(words("docker podman nerdctl ctr crictl lxc incus"), _container),
    "chmod": _chmod_set_id,
    "install": _install_set_id,
}

# ---- destruction -----------------------------------------------------------------------------------------------------

_ROOTS = words("""
    / /bin /boot /dev /efi /etc /home /lib /lib32 /lib64 /libx32 /lost+found /media /mnt /opt /proc /root /run /sbin
    /srv /sys /tmp /usr /var /usr/bin /usr/lib /usr/local /usr/sbin /usr/share /var/lib /var/log
    """)
_HOMES = words("~ ~root $HOME ${HOME} $HOME/ ${HOME}/ ~/ ~/* $HOME/* ${HOME}/* ..")
_FIND_REMOVES = re.compile(r"-exec(dir)? (\S*/)?(rm|shred|unlink) ")


def raw_device(target: str) -> bool:
    """Whether writing there goes past every file system."""
    return target.startswith("/dev/") and not harmless(target.lower()) and meaning(os.path.normpath(target)).device


def _recursive(command: Simple) -> bool:
    return any(
        word in ("--recursive", "--no-preserve-root") or (word[:1] == "-" and word[:2] != "--" and "r" in word.lower())
        for word in command.words[1:]
    )


def _hits_root(targets: Iterable[str], around: Around, *, task_too: bool = True) -> bool:
    """Whether a target is a system directory, a home, a task's whole directory, or above one."""
    for target in targets:
        if target.startswith("-"):
            continue
        if target in _HOMES:
            return True
        contents = target.endswith("/*")
        path = around.absolute(target.removesuffix("/*") or "/")
        if path in _ROOTS or path == around.home or re.fullmatch(r"/home/[^/]+", path):
            return True
        for directory in around.directories:
            if path == directory:
                if task_too and not contents:
                    return True
            elif beneath(directory, (path,)):
                return True
    return False


def _remove(command: Simple, around: Around) -> bool:
    return _recursive(command) and _hits_root(command.words[1:], around)


def _change_all(command: Simple, around: Around) -> bool:
    return _recursive(command) and _hits_root(command.words[2:], around, task_too=False)


def _find_removes(command: Simple, around: Around) -> bool:
    starts = [word for word in command.words[1:] if not word.startswith(("-", "("))][:1]
    removes = "-delete" in command.words or _FIND_REMOVES.search(" ".join(command.words)) is not None
    return removes and _hits_root(starts, around, task_too=False)


def _overwrites_device(command: Simple, _around: Around) -> bool:
    return any(raw_device(word.removeprefix("of=")) for word in command.words[1:] if not word.startswith("if="))


def _move_away(command: Simple, around: Around) -> bool:
    given = [word for word in command.words[1:] if not word.startswith("-")]
    return len(given) > 1 and (given[-1] == "/dev/null" or _hits_root(given[:-1], around))


def _formats(command: Simple, around: Around) -> bool:
    """A file system made on anything but a file of the task: an image is a file like any other."""
    given = [word for word in command.words[1:] if not word.startswith("-")]
    return any("/" in word and not beneath(around.absolute(word), around.directories) for word in given)


def _kill_all(command: Simple, _around: Around) -> bool:
    return "-1" in command.words[2:] or command.words[1:] == ("-1",)


DESTRUCTION: Table = {
    **dict.fromkeys(
        words("""
        wipefs fdisk sfdisk cfdisk parted gdisk sgdisk cgdisk blkdiscard hdparm sdparm shred scrub srm wipe
        cryptsetup lvremove vgremove pvremove mdadm badblocks dmsetup
        losetup kexec
        """),
        _with_words,
    ),
    **dict.fromkeys(
        words("""
        mke2fs mkswap mkfs mkfs.ext2
        mkfs.ext3 mkfs.ext4 mkfs.xfs mkfs.btrfs mkfs.vfat mkfs.fat mkfs.ntfs mkfs.f2fs mkfs.exfat
        mkfs.minix mkfs.cramfs mkfs.bfs mkdosfs mkntfs
        """),
        _formats,
    ),
    **dict.fromkeys(words("shutdown reboot halt poweroff telinit"), always),
    **dict.fromkeys(words("chmod chown chgrp setfacl"), _change_all),
    **dict.fromkeys(words("dd tee cp truncate"), _overwrites_device),
    "rm": _remove,
    "find": _find_removes,
    "mv": _move_away,
    "kill": _kill_all,
    "init": lambda command, _around: command.words[1:2] in (("0",), ("6",)),
}

# ---- what watches over the machine -----------------------------------------------------------------------------------

_WATCHERS = re.compile(
    r"(auditd|apparmor|selinux|firewalld|ufw|nftables|iptables|fail2ban|rsyslogd?|syslog(-ng|d)?|systemd-journald|"
    r"clamav[\w-]*|clamd|freshclam|falco\w*|falcon-sensor|osqueryd|wazuh\S*|ossec\S*|suricata|snort|aide|crowdsec|"
    r"auditbeat|sentinel\w*|mdatp|cbagent\S*|fapolicyd|usbguard)(\.service|\.socket)?\Z"
)
_STOPPING = words("stop disable mask kill revert isolate edit")


def _stops_watcher(command: Simple, _around: Around) -> bool:
    return not _STOPPING.isdisjoint(command.words) and any(_WATCHERS.match(word) for word in command.words[1:])


def _signals_watcher(command: Simple, _around: Around) -> bool:
    return any(_WATCHERS.match(word) for word in command.words[1:])


def _has(*options: str) -> Check:
    def check(command: Simple, _around: Around) -> bool:
        return any(word.startswith(options) for word in command.words[1:])

    return check


_FIREWALL = _has("-F", "-X", "-P", "-D", "--flush", "--policy", "--delete", "flush", "delete")

BLINDING: Table = {
    **dict.fromkeys(
        words("setenforce aa-disable aa-complain aa-teardown aa-remove-unknown auditctl semanage setsebool chattr"),
        _with_words,
    ),
    **dict.fromkeys(words("iptables ip6tables nft ebtables"), _FIREWALL),
    **dict.fromkeys(words("systemctl service rc-service initctl"), _stops_watcher),
    **dict.fromkeys(words("pkill killall kill"), _signals_watcher),
    "ufw": _has("disable", "reset", "delete"),
    "journalctl": _has("--vacuum", "--rotate", "--flush"),
    "sysctl": lambda command, _around: any(
        "=" in word or word in ("-w", "-p", "--system", "--write") for word in command.words[1:]
    ),
    "apparmor_parser": _has("-R", "--remove"),
    "dmesg": _has("-C", "-c", "--clear", "--read-clear", "-D", "--console-off"),
}

# ---- staying after the task ------------------------------------------------------------------------------------------

_STAYING = words("enable reenable link edit preset preset-all add-wants add-requires set-default daemon-reload")


def _schedules(command: Simple, _around: Around) -> bool:
    return not any(word in ("-l", "-c", "-V") for word in command.words[1:])


PERSISTENCE: Table = {
    **dict.fromkeys(
        words("update-rc.d chkconfig rc-update ssh-copy-id update-alternatives authselect xdg-mime"), _with_words
    ),
    **dict.fromkeys(words("at batch incrontab"), _schedules),
    "crontab": lambda command, _around: command.words[1:] != ("-l",),
    "systemctl": lambda command, _around: not _STAYING.isdisjoint(command.words),
    "loginctl": lambda command, _around: "enable-linger" in command.words,
    "pre-commit": lambda command, _around: command.words[1:2] == ("install",),
}


def writes_what_stays(command: Simple, around: Around) -> bool:
    """`echo … >> ~/.bashrc`: a shell's redirection."""
    return any(meaning(around.absolute(target), around.home).persistence for target in command.targets)


# ---- git's own settings ----------------------------------------------------------------------------------------------

# git-config(1): settings that name a program which git runs later.
_GIT_PROGRAMS = re.compile(
    r"(core\.(hookspath|fsmonitor|sshcommand|editor|pager|gitproxy|askpass|alternaterefscommand)|alias\..*|pager\..*"
    r"|diff\.external|diff\..*\.(command|textconv)|merge\..*\.driver|mergetool\..*\.(cmd|path)|difftool\..*\.(cmd|path)"
    r"|filter\..*\.(clean|smudge|process)|credential(\..*)?\.helper|gpg(\..*)?\.program|sequence\.editor"
    r"|init\.templatedir|include\.path|includeif\..*\.path|uploadpack\.packobjectshook|protocol\.ext\.allow"
    r"|remote\..*\.(vcs|uploadpack|receivepack)|browser\..*\.cmd|man\..*\.cmd|trailer\..*\.(command|cmd)"
    r"|interactive\.difffilter|submodule\..*\.update|url\..*\.insteadof)\Z",
    re.IGNORECASE,
)
_GIT_READS = words("--get --get-all --get-regexp --get-urlmatch --list -l get list")


def _sets_git(command: Simple, _around: Around) -> bool:
    """`git config core.hooksPath …`; reading a setting is fine, and so is -c for a single command."""
    given = list(command.words[1:])
    while given and given[0].startswith("-"):
        given = given[2:] if given[0] in ("-C", "-c", "--git-dir", "--work-tree", "--namespace") else given[1:]
    if given[:1] == ["clone"]:
        return any(_GIT_PROGRAMS.match(word.partition("=")[0]) for word in given[1:])
    if given[:1] != ["config"] or not _GIT_READS.isdisjoint(given):
        return False
    if any(word in ("--edit", "-e", "edit", "--file", "-f") or word.startswith("--file=") for word in given):
        return True
    values = [word for word in given[1:] if not word.startswith("-") and word not in ("set", "unset")]
    return len(values) > 1 and _GIT_PROGRAMS.match(values[0]) is not None


GIT_SETTINGS: Table = {"git": _sets_git}

# ---- governed-mcpd itself --------------------------------------------------------------------------------------------

_GOVERNED = re.compile(r"governed(-mcpd|-gate|-resolver)?(\.service|\.socket|\.slice)?\Z")
_CTL_READS = words("run mcp status get validate doctor explain journal --help --version help")
_UNIT_READS = words("status show is-active cat is-enabled")
_REMOVING = words("remove purge uninstall -r -P -e -R --remove --purge erase")


_CTL_WITH_VALUE = ("--runtime-dir", "--config")


def _ctl_changes(command: Simple, _around: Around) -> bool:
    before = ("", *command.words[1:])
    words_ = [word for last, word in zip(before, command.words[1:], strict=False) if last not in _CTL_WITH_VALUE]
    given = [word for word in words_ if not word.startswith("-") or word in _CTL_READS]
    if not given or given[0] in _CTL_READS:
        return False
    return given[:2] not in (["approvals", "list"], ["sandbox", "list"])


def _unit_governed(command: Simple, _around: Around) -> bool:
    return _UNIT_READS.isdisjoint(command.words) and any(_GOVERNED.match(word) for word in command.words[1:])


def _removes_governed(command: Simple, _around: Around) -> bool:
    return not _REMOVING.isdisjoint(command.words) and any(word.startswith("governed") for word in command.words[1:])


def _starts_daemon(command: Simple, _around: Around) -> bool:
    return not any(word in ("--help", "--version") for word in command.words[1:])


GOVERNED: Table = {
    **dict.fromkeys(known.GOVERNED_NAMES - {"governedctl"}, _starts_daemon),
    **dict.fromkeys(words("systemctl service rc-service pkill killall kill deb-systemd-invoke"), _unit_governed),
    **dict.fromkeys(words("apt apt-get dpkg dnf yum rpm pacman pip pip3 uv"), _removes_governed),
    "governedctl": _ctl_changes,
}

# ---- other processes -------------------------------------------------------------------------------------------------


def _attaches(command: Simple, _around: Around) -> bool:
    return any(
        word in ("-p", "--pid", "--attach", "attach") or re.match(r"-p\d|--pid=", word) for word in command.words[1:]
    )


ATTACHING: Table = {
    **dict.fromkeys(words("gcore reptyr py-spy rbspy injcso memfetch"), _with_words),
    **dict.fromkeys(words("strace ltrace gdb lldb perf"), _attaches),
}

# ---- passwords as words ----------------------------------------------------------------------------------------------


def _mysql_password(command: Simple, _around: Around) -> bool:
    return any(re.match(r"-p\S{3,}", word) for word in command.words[1:])


def _user_and_password(command: Simple, _around: Around) -> bool:
    return any(
        option in ("-u", "--user", "-U", "--proxy-user", "-a") and re.match(r"[^:$]+:[^$]{3,}", value) is not None
        for option, value in pairwise(command.words)
    )


PASSWORDS: Table = {
    **dict.fromkeys(words("mysql mysqldump mysqladmin mariadb"), _mysql_password),
    **dict.fromkeys(words("curl wget http https xh"), _user_and_password),
    "sshpass": _has("-p"),
}

# ---- running what was downloaded -------------------------------------------------------------------------------------

_DOWNLOADERS = words("curl wget wget2 aria2c fetch lynx http https xh axel")
_SHELLS = words("sh bash dash zsh ksh mksh ash fish rbash csh tcsh")
_INTERPRETERS = re.compile(r"(python[0-9.]*|perl|ruby|node|nodejs|php|lua|deno|bun|pwsh|tclsh)\Z")


def runs_download(commands: Sequence[Simple]) -> bool:
    """A download piped into something that runs what it reads."""
    downloading = False
    for command in commands:
        if not command.piped:
            downloading = False
        if command.name in _DOWNLOADERS:
            downloading = True
        elif downloading and command.piped and _reads_program(command):
            return True
    return False


def _reads_program(command: Simple) -> bool:
    """Whether it takes its program from its input (`sh`, `bash -s x`, `python -`), not from a file or -c."""
    given = command.words[1:]
    if command.name in _SHELLS:
        return "-s" in given or all(word.startswith("-") and "c" not in word for word in given)
    if _INTERPRETERS.match(command.name):
        return "-" in given or not given
    return command.name in ("source", ".") and "/dev/stdin" in given
