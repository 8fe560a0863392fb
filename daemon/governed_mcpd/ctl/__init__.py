"""governedctl: seeing and steering governed-mcpd. The launcher (`governedctl run`) is a room of its own."""
