"""How good labels are: datasets, metrics, accuracy."""
