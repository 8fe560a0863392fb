"""From an Action to what the constitution's policies are asked about: the facts, worked out once, in Python."""
