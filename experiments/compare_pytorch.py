"""The same numbers as PyTorch: see `studies.parity`."""

from ddpm_jax.cli.signals import run_main
from studies.parity.compare_pytorch import main

if __name__ == "__main__":
    run_main(main)
