"""What runs engines: one object for each target, and the registry that holds them."""
