"""Who acts: the sandboxes that are there, what each of them may and has done, how they begin, live and end."""
