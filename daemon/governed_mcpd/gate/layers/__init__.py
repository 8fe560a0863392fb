"""The six layers, one module each, in the order of docs/design: schema, tier, rate, prefilter, probe, constitution."""
