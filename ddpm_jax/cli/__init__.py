"""The commands: what `ddpm-jax NAME` and the scripts in experiments/ run."""
