"""`governed-resolver`: asks name servers for sandboxes. Has the network, decides nothing, imports nothing
privileged."""
