"""Where data lie, how they are read and checked: datasets, transforms, loading."""
