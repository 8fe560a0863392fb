"""What a sandbox is made of: the pause table, the filter made from it, the Envelope."""
