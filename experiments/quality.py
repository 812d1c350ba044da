"""How good the recipe is: see `studies.quality`."""

from ddpm_jax.cli.signals import run_main
from studies.quality.main import main

if __name__ == "__main__":
    run_main(main)
