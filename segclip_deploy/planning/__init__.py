"""Which block computes in what: sensitivity, search, and the plan."""
