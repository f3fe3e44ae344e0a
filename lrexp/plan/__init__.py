"""Memory and operations of a run before it begins, from shapes alone."""
