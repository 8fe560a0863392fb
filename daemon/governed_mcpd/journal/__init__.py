"""The journal: an append-only, hash-chained account of what was asked, decided and done.

journal.Journal writes it (one per state directory); read, verify and redact need no daemon. See DESIGN.md, Journal.
"""
