"""How fast it is, beside PyTorch and the speed limit."""
