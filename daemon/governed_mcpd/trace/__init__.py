"""What a sandbox does, seen from tracepoints: a second witness, which asks neither the daemon nor its filter."""
