"""governed-mcpd: every side effect of an agent's tools pauses until a gate approves it."""

__version__ = "0.1.0"
