"""`python -m governed_mcpd.sandbox.table`: prints docs/pause-table.md; `--write` puts it there."""

import os
import sys

from governed_mcpd.sandbox.table.document import document

_TARGET = os.path.join("docs", "pause-table.md")

if sys.argv[1:] == ["--write"]:
    os.makedirs("docs", exist_ok=True)
    with open(_TARGET, "w", encoding="utf-8") as file:
        file.write(document())
elif sys.argv[1:]:
    sys.exit("usage: python -m governed_mcpd.sandbox.table [--write]")
else:
    sys.stdout.write(document())
