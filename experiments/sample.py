"""Draw points from a run: `ddpm-jax sample`."""

from ddpm_jax.cli.sample import main
from ddpm_jax.cli.signals import run_main

if __name__ == "__main__":
    run_main(main)
