"""ProbeLogits: two logits for an Action, their calibration, and the backends that yield them."""
