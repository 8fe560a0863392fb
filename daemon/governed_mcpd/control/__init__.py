"""The control protocol: what CLI, launcher and daemon say to each other over the control socket."""
