"""Costs, measured: `make bench` and `make bench-peers`. Nothing here passes or fails by time."""
