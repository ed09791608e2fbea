"""Training and evaluation: from a config's name through loops and hooks to its figures."""
