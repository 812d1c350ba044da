"""Devices, processes, seeds: see `studies.speed.scaling`."""

from ddpm_jax.cli.signals import run_main
from studies.speed.scaling import main

if __name__ == "__main__":
    run_main(main)
