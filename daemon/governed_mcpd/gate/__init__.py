"""The gate: a process of its own, without privileges, that turns an Action into a Verdict."""
