"""One command in several processes: how they find each other."""

from dataclasses import dataclass

import jax

from ddpm_jax.cli import lifeline
from ddpm_jax.errors import ConfigError


@dataclass(frozen=True)
class Processes:
    """How the processes of one job find each other."""

    distributed: bool = False
    """Run as one of several processes, all with the same command. Slurm, Open MPI, Kubernetes and
    TPU pods are recognised; elsewhere pass the three settings below."""
    coordinator: str | None = None
    """HOST:PORT of process 0, for --distributed."""
    num_processes: int | None = None
    """How many processes there are, for --distributed."""
    process_id: int | None = None
    """Which of them this is, from 0, for --distributed."""

    def __post_init__(self) -> None:
        given = [v is not None for v in (self.coordinator, self.num_processes, self.process_id)]
        if any(given) and not (all(given) and self.distributed):
            raise ConfigError(
                "--coordinator, --num-processes and --process-id go together, with --distributed"
            )
        n, i = self.num_processes, self.process_id
        if n is not None and i is not None and not 0 <= i < n:
            raise ConfigError(f"--process-id must lie in 0..{n - 1}, got {i}")

    def join(self) -> None:
        """Connect to the other processes; to be called before JAX is first used.

        Raises ConfigError where there is no cluster to recognise or nobody answers.
        """
        if not self.distributed:
            return
        try:
            # Its own handling of SIGTERM would replace the script's.
            jax.config.update("jax_enable_preemption_service", False)
            lifeline.initialize(self.coordinator, self.num_processes, self.process_id)
        except (ValueError, RuntimeError) as error:
            raise ConfigError(
                f"--distributed: {error}; where the cluster is not recognised, pass --coordinator "
                "HOST:PORT, --num-processes N and --process-id I to each process"
            ) from error


ALONE = Processes()
