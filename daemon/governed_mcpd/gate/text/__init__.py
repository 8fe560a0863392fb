"""What the gate reads out of text: hidden encodings, patterns, and where a value comes from."""
