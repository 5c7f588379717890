"""Methods that train: each from its paper, one file a method."""
