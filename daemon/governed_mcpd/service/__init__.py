"""The daemon as a process: its start and end, its sockets, and what is asked of it there."""
