"""The nouns that every room knows: Subject, Action, Verdict, Lease. Nothing here touches the kernel or a model."""
