"""What a run may not be asked for when it is started on a Prefect server, and not by `fewstep`."""

from pathlib import Path

from prefect.runtime import deployment

from fewstep.errors import UserError

CHECKOUT = Path.cwd().resolve()  # where the worker began; for DVC the whole process goes elsewhere


def check_folder(root: Path) -> None:
    """Refuse another folder than the worker's checkout: the dvc.yaml in it would hold the commands that run.

    Raises:
        UserError: A deployment is to run there.
    """
    if deployment.id and root.resolve() != CHECKOUT:
        raise UserError(f"a worker's chains run in its checkout, not in {root}: leave `root` as it is")
