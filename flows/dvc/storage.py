"""The storage through which machines share outputs, and the project that it belongs to.

A file there, beside DVC's, names the project by its first commit. So a worker knows that its remote or cache
is the driver's, whatever its path or address, and refuses that of another project.
"""

from pathlib import Path

from dvc.exceptions import DvcException
from dvc.repo import Repo

from fewstep.errors import UserError
from flows.dvc import repo
from flows.system import git

MARK = "fewstep-project"
REMEDY = (
    "give machines one: a DVC remote (dvc remote add -d NAME URL) or a folder that all see "
    "(dvc config cache.dir FOLDER), and commit .dvc/config"
)


def claim(root: Path) -> str:
    """Mark the storage of `root` as this project's, unless it is marked, and return the project's name.

    Raises:
        UserError: It belongs to another project, or there is none.
    """
    project = git.first_commit(root)
    if (found := _mark(root, project)) != project:
        raise UserError(
            f"the DVC {repo.shares_by(root)} of {root} has another project's data: it began at commit "
            f"{found[:12]}, this project at {project[:12]}. Give each project a folder of its own there"
        )
    return project


def check(root: Path, project: str) -> None:
    """Refuse a worker's storage that is not the driver's.

    Args:
        root: The worker's checkout.
        project: What `claim` returned to the driver.

    Raises:
        UserError: It is not.
    """
    if (found := _mark(root, None)) != project:
        raise UserError(
            f"the worker's DVC {repo.shares_by(root)} is not the driver's: it has "
            f"{f'data of the project begun at {found[:12]}' if found else 'no data of a project'}, the "
            f"driver's has that of the project begun at {project[:12]}. Configure the same for both"
        )


def _mark(root: Path, wanted: str | None) -> str:
    """Return the mark of the storage, after writing `wanted` where there was none."""
    try:
        with Repo(str(root)) as opened:
            match repo.shares_by(root):
                case "remote":
                    odb = opened.cloud.get_remote_odb()
                    fs, folder = odb.fs, odb.fs.parent(odb.fs.parent(odb.path))  # above files/md5
                case "cache":
                    fs, folder = opened.cache.local.fs, opened.cache.local_cache_dir
                case _:
                    raise UserError(f"{root} shares no outputs with other machines; {REMEDY}")
            file = fs.join(folder, MARK)
            if not fs.exists(file):
                if wanted is None:
                    return ""
                fs.makedirs(folder, exist_ok=True)
                fs.pipe_file(file, wanted.encode())
            return fs.cat_file(file).decode().strip()
    except (DvcException, OSError) as error:
        raise UserError(f"the DVC {repo.shares_by(root)} of {root} cannot be reached: {error}") from error
