"""Names of addresses: where DNS of sandboxes goes, who judges what is asked, and what the answers were."""
