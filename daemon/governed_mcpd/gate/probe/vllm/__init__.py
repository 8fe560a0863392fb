"""Layer 5 by a language model behind a vLLM server: one forward pass, the logits of two verdict tokens."""
