"""Train a model: `ddpm-jax train`."""

from ddpm_jax.cli.signals import run_main
from ddpm_jax.cli.train import main

if __name__ == "__main__":
    run_main(main)
