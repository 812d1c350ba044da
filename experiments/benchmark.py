"""How fast it is: see `studies.speed`."""

from ddpm_jax.cli.signals import run_main
from studies.speed.benchmark import main

if __name__ == "__main__":
    run_main(main)
