"""Whether the port is exact."""
