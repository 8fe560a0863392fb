"""Policy documents: what people write, checked field by field. Daemon and gate both read them."""
