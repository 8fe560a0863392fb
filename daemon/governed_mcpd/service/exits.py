"""Exit statuses of governed-mcpd that are no success."""

CONFIG = 78  # sysexits.h EX_CONFIG: systemd does not help by starting again
START = 1
