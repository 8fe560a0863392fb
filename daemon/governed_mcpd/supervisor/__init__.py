"""The daemon: sandboxes, pauses, verdicts, grants, records. The only room that runs with privileges."""
