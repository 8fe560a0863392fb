"""How good the gate is on labelled tool calls: cases, decisions of each layer, figures with their uncertainty."""
