"""What studies share that train models: the text."""
