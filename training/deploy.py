"""Register a checkpoint with a service, evaluate it on the gallery, and put it in service on request.

Usage: ``python training/deploy.py --checkpoint FILE --to URL [--activate] [--require-better]``. With
--deploy URL train.py does the same at the end of a run.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from typer import Option

from training.options.command import command, exit_on_error
from training.weights.deployment import deploy as deploy_checkpoint


@dataclass(frozen=True)
class DeployOptions:
    """Options of deploy.py."""

    checkpoint: Annotated[Path, Option(help="A .safetensors checkpoint.")]
    to: Annotated[str, Option(help="URL of the service.")]
    activate: Annotated[
        bool, Option("--activate", help="Put the network in service there, and wait for the swap.")
    ] = False
    require_better: Annotated[
        bool, Option("--require-better", help="Activate only if it is no worse on the people of the gallery.")
    ] = False

    def __post_init__(self) -> None:
        """End the process if two options contradict each other."""
        if self.require_better and not self.activate:
            raise SystemExit("deploy: --require-better needs --activate")


def deploy(options: DeployOptions) -> None:
    """Register a checkpoint with a service, and put it in service on request."""
    with exit_on_error("deploy", OSError):
        deploy_checkpoint(
            options.checkpoint,
            options.to,
            is_activated=options.activate,
            require_better=options.require_better,
        )


main = command(DeployOptions, deploy)

if __name__ == "__main__":
    typer.run(main)
