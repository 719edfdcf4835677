"""Models in folders: find them, name them."""
