"""What a loss of power may leave of DVC's own files: a damaged dvc.lock, list of readers, or cached file.

DVC stops at these with errors of its own. `explain` looks for what may have led to one, `mend` at everything.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from fewstep.errors import UserError
from fewstep.files import remove, written_whole
from flows.dvc import config, lockfile
from flows.system import git
from stages.artifacts import places

DIGEST = re.compile(r"[0-9a-f]{32}")
REMEDY = "`fewstep recover` repairs that; then run the same command again"


def explain(root: Path) -> str | None:
    """Return a message with the command that mends what is damaged; None if nothing seems to be."""
    found = [*lockfile.problems(root), *_listed(root), *(f"{path} is a folder" for path in _folders(root))]
    return f"DVC can't use its own files: {'; '.join(found)}. {REMEDY}" if found else None


def mend(root: Path) -> list[str]:
    """Mend dvc.lock and the cache of a project; return a line for each thing that was done.

    All cached files are read. What is removed comes back by `dvc repro`: from scratch, or made again.
    """
    done = _mend_lockfile(root)
    for path in _folders(root):
        remove(path)
        done.append(f"removed {path} from DVC's cache: it was a folder")
    with ThreadPoolExecutor() as threads:
        files = list(_cached(root))
        for path, whole in zip(files, threads.map(_is_whole, files), strict=True):
            if not whole:
                remove(path)
                done.append(f"removed {path} from DVC's cache: it was damaged")
    return done


def _mend_lockfile(root: Path) -> list[str]:
    """Put back the dvc.lock of the last commit, or none: DVC finds what is not in it in its run-cache."""
    problems = lockfile.problems(root)
    if not problems:
        return []
    file, aside = root / lockfile.FILE, root / places.DAMAGED_LOCKFILE
    aside.parent.mkdir(exist_ok=True)
    remove(aside)
    file.rename(aside)
    committed = ""
    with suppress(UserError):
        committed = git.git(root, "show", f"HEAD:./{lockfile.FILE}")
    told = f"{problems[0]}: moved it to {aside}"
    if not committed or lockfile.problem(committed):
        return [f"{told}; the last commit has none, so DVC looks for the results as it runs"]
    with written_whole(file) as temporary:
        temporary.write_text(committed)
    return [f"{told} and put back that of the last commit"]


def _listed(root: Path) -> list[str]:
    """Return what is wrong with DVC's list of readers and writers; `repo.clear_locks` removes it."""
    file = root / ".dvc" / "tmp" / "rwlock"
    try:
        json.loads(file.read_text())
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        return [f"{file} is damaged ({error})"]
    return []


def _objects(root: Path) -> Iterator[Path]:
    """Yield what has the name of a file in the cache: its md5, and `.dir` for a list of files."""
    for path in sorted((config.cache(root) / "files" / "md5").glob("??/*")):
        if DIGEST.fullmatch(_digest(path)):
            yield path


def _digest(path: Path) -> str:
    return path.parent.name + path.name.removesuffix(".dir")


def _folders(root: Path) -> list[Path]:
    return [path for path in _objects(root) if path.is_dir()]


def _cached(root: Path) -> Iterator[Path]:
    return (path for path in _objects(root) if path.is_file())


def _is_whole(path: Path) -> bool:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest() == _digest(path)
