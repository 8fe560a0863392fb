"""`governedctl run`: makes a process into a sandbox, and stands in for it towards terminal and shell.

Start-up time is the user's: nothing here imports protobuf, typer, pydantic or libseccomp.
"""
