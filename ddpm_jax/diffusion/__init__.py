"""The mathematics: schedules, the forward process, samplers, densities. Only jax."""
