"""The evidence: what the commands quality, benchmark, scaling and compare_pytorch are made of."""
