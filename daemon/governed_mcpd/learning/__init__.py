"""From a run that was watched to a Tool document that a person reads: what followed from which argument of which tool.

The server may lie. It knows that it is watched, chooses names, and can do anything during a call. So a proposal says
what was seen and no more: an effect counts for an argument when it followed two different values of it; a place that is
always the same follows from no argument; what the gate would have refused is left out. What is left out is said in a
comment.
"""
