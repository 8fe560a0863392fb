"""Names on a Linux machine that mean something: data only.

All lower case: names are compared without case, because some file systems do not tell `.SSH` from `.ssh` (casefolded
ext4, vfat), and a refusal too many costs less than one too few. HOME sets are relative to any home directory, the
others absolute. A TREE covers what lies beneath it.
"""


def words(text: str) -> frozenset[str]:
    """A set of names written as a paragraph."""
    return frozenset(text.split())


# Keys, tokens and passwords, and what unlocks them.
CREDENTIAL_HOME_TREES = words("""
    .ssh .gnupg .aws .azure .kube .docker .password-store .local/share/keyrings .local/share/kwalletd
    .gnome2/keyrings .config/gcloud .config/gh .config/hub .config/glab-cli .config/op .config/1password
    .config/bitwarden .config/rclone .config/sops .config/age .config/containers .config/doctl .config/heroku
    .config/hcloud .config/github-copilot .config/keepassxc .mozilla .thunderbird .config/google-chrome
    .config/chromium .config/bravesoftware .config/microsoft-edge .config/vivaldi .config/opera .config/signal
    .config/slack .config/discord .bitcoin .ethereum .electrum .monero .config/solana .claude/.credentials.json
    .codex/auth.json .gemini/oauth_creds.json .config/anthropic .config/openai .terraform.d .config/pulumi .pulumi
    .oci .pki .cert .vpn .config/filezilla .config/evolution .local/share/evolution .config/goa-1.0 .krb5
    .config/git/credentials .cargo/credentials .cargo/credentials.toml .gem/credentials .m2/settings.xml
    .gradle/gradle.properties .config/composer/auth.json .composer/auth.json .config/pypoetry/auth.toml
    .nuget/nuget.config .config/nuget .huggingface/token .cache/huggingface/token .kaggle .config/netlify .vercel
    .config/stripe .fly .ngrok2 .config/ngrok .databrickscfg .snowsql .snowflake .dbt .netrc .authinfo .authinfo.gpg
    .git-credentials .pypirc .npmrc .yarnrc .yarnrc.yml .pgpass .my.cnf .mylogin.cnf .s3cfg .boto .vault-token
    .fetchmailrc .msmtprc .mbsyncrc .offlineimaprc .smbcredentials .rediscli_auth .ecryptfs .xauthority
    .iceauthority .esd_auth .google_authenticator .rhosts .shosts .env
    """)
# Under .ssh: what ssh(1) reads that is no secret. Changing it is another matter (persistence).
PUBLIC_SSH_NAMES = words("config known_hosts known_hosts.old authorized_keys authorized_keys2 allowed_signers")
CREDENTIAL_TREES = words("""
    /etc/shadow /etc/shadow- /etc/gshadow /etc/gshadow- /etc/security/opasswd /etc/ssl/private /etc/pki/tls/private
    /etc/krb5.keytab /etc/letsencrypt /etc/wireguard /etc/openvpn /etc/ipsec.secrets /etc/ipsec.d /etc/swanctl
    /etc/ppp/chap-secrets /etc/ppp/pap-secrets /etc/networkmanager/system-connections /etc/wpa_supplicant
    /etc/kubernetes /etc/rancher /etc/samba/credentials /etc/cifs-credentials /etc/sssd /etc/credstore
    /etc/credstore.encrypted /etc/vault.d /etc/docker/key.json /etc/cryptsetup-keys.d /etc/crypttab.d
    /etc/mysql/debian.cnf /etc/postgresql-common/root.crt /etc/dovecot/private /etc/exim4/passwd.client
    /etc/postfix/sasl_passwd /etc/borgmatic /etc/restic /etc/apt/auth.conf /etc/apt/auth.conf.d /run/secrets
    /var/run/secrets /run/credentials /run/cryptsetup /var/lib/sss /var/lib/krb5kdc /var/lib/kubelet
    /var/lib/systemd/credential.secret /var/lib/private /var/lib/networkmanager /var/lib/iwd /var/lib/bluetooth
    /var/lib/fprint /var/lib/tpm /var/lib/gdm /var/lib/gdm3 /var/lib/lightdm /var/lib/mysql /var/lib/postgresql
    """)
# Anywhere: their names say what they are.
CREDENTIAL_NAMES = words("""
    id_rsa id_dsa id_ecdsa id_ecdsa_sk id_ed25519 id_ed25519_sk identity.age .netrc _netrc .git-credentials .pgpass
    .vault-token .pypirc .htpasswd shadow shadow- gshadow secring.gpg wallet.dat credentials.json
    service-account.json service_account.json client_secret.json kubeconfig .dockercfg .dockerconfigjson logins.json
    key3.db key4.db cookies.sqlite
    """)
CREDENTIAL_ENDINGS = (
    ".kdbx",
    ".kdb",
    ".ppk",
    ".p12",
    ".pfx",
    ".keytab",
    ".jks",
    ".keystore",
    ".agekey",
    ".ovpn",
    "_key.pem",
)
# Files of settings that hold secrets in projects: a credential anywhere but in the task's own directories.
ENVIRONMENT_NAMES = (".env", ".env.")
ENVIRONMENT_SAMPLES = (".example", ".sample", ".template", ".dist", ".defaults")

# What runs, or decides what runs, after the task has ended.
PERSISTENCE_HOME_TREES = words("""
    .bashrc .bash_profile .bash_login .bash_logout .bash_aliases .bashrc.d .profile .profile.d .zshrc .zshenv
    .zprofile .zlogin .zlogout .zsh .oh-my-zsh .kshrc .mkshrc .cshrc .tcshrc .login .logout .config/fish
    .config/nushell .inputrc .xinitrc .xsession .xsessionrc .xprofile .xserverrc .xmodmap .pam_environment
    .config/environment.d .config/autostart .config/autostart-scripts .config/plasma-workspace .config/systemd
    .local/share/systemd .config/upstart .config/cron .local/share/applications .local/share/dbus-1
    .config/user-tmpfiles.d .config/sway .config/i3 .i3 .config/hypr .config/openbox .config/awesome .config/bspwm
    .fluxbox .config/xfce4/autostart .ssh .forward .procmailrc .gitconfig .config/git .githooks .hgrc .config/hg
    .vimrc .vim .config/nvim .emacs .emacs.d .config/emacs .gvimrc .exrc .nanorc .screenrc .tmux.conf .config/tmux
    .gdbinit .config/gdb .lldbinit .pdbrc .irbrc .pryrc .rprofile .psqlrc .sqliterc .mailcap .direnvrc
    .config/direnv .config/mise .asdfrc .envrc .cargo/config .cargo/config.toml .config/pip .pip .pydistutils.cfg
    .config/npm .bunfig.toml .config/starship.toml .vscode/extensions .vscode-server .cursor/mcp.json
    .config/code/user .config/cursor .config/vscodium .jupyter .ipython .local/share/nautilus/scripts
    .config/containers .docker .kube .claude/settings.json .claude/settings.local.json .claude/hooks .claude.json
    .codex/config.toml .gemini/settings.json .config/mcp .mcp.json
    """)
PERSISTENCE_TREES = words("""
    /etc/crontab /etc/cron.d /etc/cron.hourly /etc/cron.daily /etc/cron.weekly /etc/cron.monthly /etc/cron.yearly
    /etc/cron.allow /etc/cron.deny /etc/anacrontab /etc/at.allow /etc/at.deny /var/spool/cron /var/spool/at
    /var/spool/anacron /etc/systemd /usr/lib/systemd /lib/systemd /usr/local/lib/systemd /run/systemd
    /var/lib/systemd/linger /etc/init /etc/init.d /etc/inittab /etc/rc.local /etc/rc.d /etc/rc0.d /etc/rc1.d
    /etc/rc2.d /etc/rc3.d /etc/rc4.d /etc/rc5.d /etc/rc6.d /etc/rcs.d /etc/runit /etc/sv /etc/s6 /etc/openrc
    /etc/local.d /etc/conf.d /etc/profile /etc/profile.d /etc/bash.bashrc /etc/bash_completion.d /etc/bashrc
    /etc/zsh /etc/zshrc /etc/zshenv /etc/zprofile /etc/fish /etc/csh.login /etc/csh.cshrc /etc/environment
    /etc/environment.d /etc/inputrc /etc/ld.so.preload /etc/ld.so.conf /etc/ld.so.conf.d /etc/ld.so.cache
    /etc/xdg/autostart /etc/xdg/systemd /etc/x11 /etc/gdm3 /etc/lightdm /etc/udev /usr/lib/udev /lib/udev
    /run/udev/rules.d /etc/modules /etc/modules-load.d /etc/modprobe.d /lib/modules /usr/lib/modules
    /etc/sysctl.conf /etc/sysctl.d /etc/tmpfiles.d /usr/lib/tmpfiles.d /etc/binfmt.d /etc/kernel
    /etc/initramfs-tools /etc/dracut.conf.d /etc/mkinitcpio.conf /etc/default /etc/sysconfig /boot /efi /etc/grub.d
    /etc/pam.d /etc/pam.conf /etc/security /etc/sudoers /etc/sudoers.d /etc/doas.conf /etc/polkit-1
    /usr/share/polkit-1 /etc/passwd /etc/passwd- /etc/group /etc/group- /etc/shadow /etc/gshadow /etc/subuid
    /etc/subgid /etc/shells /etc/login.defs /etc/ssh /etc/inetd.conf /etc/xinetd.d /etc/dbus-1 /usr/share/dbus-1
    /etc/update-motd.d /etc/networkmanager/dispatcher.d /etc/network /etc/networkd-dispatcher /etc/dhcp /etc/ppp
    /etc/logrotate.conf /etc/logrotate.d /etc/apt /etc/dpkg /etc/dnf /etc/yum.repos.d /etc/pacman.d /etc/pacman.conf
    /etc/alternatives /etc/skel /etc/gitconfig /etc/hosts /etc/resolv.conf /etc/nsswitch.conf /etc/host.conf
    /etc/ca-certificates /etc/ca-certificates.conf /usr/local/share/ca-certificates /etc/ssl/certs /usr/local/bin
    /usr/local/sbin /etc/docker /etc/containerd /etc/incron.d /etc/acpi /etc/pm /usr/lib/systemd/system-sleep
    /etc/mail /etc/aliases /etc/python3
    """)
# git(1) runs a program of these names after a command of that kind (githooks(5)).
GIT_HOOK_NAMES = words("""
    applypatch-msg pre-applypatch post-applypatch pre-commit pre-merge-commit prepare-commit-msg commit-msg
    post-commit pre-rebase post-checkout post-merge pre-push pre-receive update proc-receive post-receive
    post-update reference-transaction push-to-checkout pre-auto-gc post-rewrite sendemail-validate
    fsmonitor-watchman p4-changelist p4-prepare-changelist p4-post-changelist p4-pre-submit post-index-change
    """)
# git's own settings: core.hooksPath, core.fsmonitor, aliases and filters in them name programs.
GIT_CONFIG_NAMES = frozenset(("config", "config.worktree"))

# Logs, histories, and what watches over the machine.
OVERSIGHT_HOME_TREES = words("""
    .bash_history .zsh_history .zhistory .sh_history .ash_history .histfile .history .local/share/fish/fish_history
    .local/share/zsh .python_history .node_repl_history .psql_history .mysql_history .sqlite_history
    .rediscli_history .lesshst .viminfo .local/share/atuin .local/state/bash .local/share/recently-used.xbel
    """)
OVERSIGHT_TREES = words("""
    /var/log /run/log /var/account /run/utmp /var/run/utmp /etc/audit /etc/audisp /etc/apparmor /etc/apparmor.d
    /var/lib/apparmor /etc/selinux /var/lib/selinux /sys/fs/selinux /sys/kernel/security /etc/rsyslog.conf
    /etc/rsyslog.d /etc/syslog-ng /etc/syslog.conf /etc/fail2ban /var/lib/fail2ban /etc/nftables.conf
    /etc/nftables.d /etc/iptables /etc/ufw /etc/firewalld /etc/clamav /var/lib/clamav /etc/aide /var/lib/aide
    /etc/tripwire /etc/ossec /var/ossec /etc/osquery /opt/crowdstrike /opt/sentinelone /opt/carbonblack /opt/falco
    /etc/falco /etc/suricata /etc/snort /etc/rkhunter.conf /etc/chkrootkit /etc/wazuh-agent /etc/auditbeat
    /etc/filebeat /etc/fapolicyd
    """)

# Of governed-mcpd, where packages put it. The directories of a running instance are added to these.
GOVERNED_TREES = words("""
    /etc/governed-mcpd /run/governed-mcpd /var/run/governed-mcpd /var/lib/governed-mcpd /var/cache/governed-mcpd
    /usr/lib/governed-mcpd /usr/share/governed-mcpd /opt/governed-mcpd /sys/fs/bpf/governed
    /sys/fs/bpf/governed-mcpd /run/governed-gate /var/lib/governed-gate /run/governed-resolver
    /var/lib/governed-resolver
    """)
GOVERNED_NAMES = frozenset(("governed-mcpd", "governed-gate", "governed-resolver", "governedctl"))

# Device nodes that programs need and that lead nowhere.
HARMLESS_DEVICES = words("""
    /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/ptmx /dev/pts/ptmx /dev/stdin /dev/stdout
    /dev/stderr
    """)
# Interfaces to the kernel itself, whoever opens them, also for reading.
KERNEL_TREES = words("""
    /proc/kcore /proc/kmsg /proc/kpagecount /proc/kpageflags /proc/kpagecgroup /proc/kallsyms /proc/sysrq-trigger
    /proc/vmcore /proc/acpi /proc/bus /proc/mtrr /proc/timer_list /proc/sched_debug /proc/keys /proc/key-users
    /sys/kernel/debug /sys/kernel/tracing /sys/kernel/config /sys/fs/bpf /sys/firmware/efi/efivars /sys/power
    /sys/kernel/kexec_loaded /sys/kernel/livepatch /sys/bus/pci/rescan /debugfs /tracefs
    """)
# Under /proc/PID: what shows or changes the inside of a process. The rest (stat, status, maps) ps(1) and libc read.
PROCESS_INSIDES = words("mem environ auxv pagemap syscall stack clear_refs")
PROCESS_INSIDE_TREES = ("fd/", "fdinfo/", "map_files/", "root/", "cwd/")
# Of its own, a process may change these: its name, and how readily it is ended.
OWN_PROCESS_SETTINGS = words("comm oom_score_adj oom_adj timerslack_ns coredump_filter")

# Sockets of programs that act with other rights than the sandbox's, or outside it: containers, the message buses
# (systemd starts programs through them), the display (keys can be typed into other windows), other terminals.
BROKER_TREES = words("""
    /run/docker.sock /var/run/docker.sock /run/docker /run/containerd /run/podman /run/crio /run/dbus /var/run/dbus
    /run/systemd/private /run/systemd/notify /run/systemd/io.systemd.manager /run/libvirt /var/run/libvirt
    /var/lib/libvirt /run/snapd.socket /run/snapd-snap.socket /var/snap/lxd /var/lib/lxd /var/lib/incus /run/incus
    /tmp/.x11-unix /tmp/.ice-unix /tmp/.font-unix /run/screen /var/run/screen /run/udev/control /run/pcscd /run/qemu
    /run/acpid.socket /run/avahi-daemon /run/cups /run/lvm /run/multipathd.socket /run/k3s /run/buildkit
    """)
# In /run/user/UID: the same of one user.
BROKER_USER_NAMES = (
    "bus",
    "systemd",
    "podman",
    "docker.sock",
    "containerd",
    "wayland-",
    "pipewire-",
    "pulse",
    "dbus-",
    "at-spi",
)
CREDENTIAL_SOCKET_PARTS = (
    "/keyring/",
    "/gnupg/",
    "s.gpg-agent",
    "s.keyboxd",
    "ssh-agent",
    "/agent.",
    "kwallet",
    "1password",
    "s.scdaemon",
)
BROKER_SOCKET_PARTS = (
    "/tmux-",
    "docker.sock",
    "containerd.sock",
    "/.x11-unix/",
    "/dbus-",
    "/screens/",
    "/.ice-unix/",
    "mutter",
    "/at-spi",
)
# Name services and the system's log, which libc itself opens.
PLAIN_SOCKETS = words("""
    /run/systemd/userdb /dev/log /run/systemd/journal
    /run/systemd/machine/io.systemd.machine
    """)
