"""Measure a run's samples: `ddpm-jax evaluate`."""

from ddpm_jax.cli.evaluate import main
from ddpm_jax.cli.signals import run_main

if __name__ == "__main__":
    run_main(main)
