"""Scratch: where a stage works, out of DVC's sight, so that a killed one resumes; and how it is published."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from fewstep.errors import UserError
from fewstep.files import flush_below, remove, try_to_write_in, written_whole
from stages.artifacts import damage, manifests, places

VARIABLE = "FEWSTEP_SCRATCH"


def root() -> Path:
    """Return the checkout: `dvc exp run --temp` works in a throw-away clone and names it in DVC_ROOT."""
    return Path(os.environ.get("DVC_ROOT") or Path.cwd())


@dataclass(frozen=True)
class Scratch:
    """The folder of one stage, key and fingerprint; it is finished when it holds a manifest."""

    folder: Path

    @classmethod
    def of(cls, address: str, fingerprint: str) -> "Scratch":
        """Return the scratch of a stage."""
        return cls(cls.parent() / f"{address}.{fingerprint[:16]}")

    @staticmethod
    def parent() -> Path:
        """Return the folder of all scratch; clones may share one, FEWSTEP_SCRATCH."""
        return Path(os.environ.get(VARIABLE) or root() / places.SCRATCH)

    @classmethod
    def must_be_usable(cls) -> None:
        """Refuse a folder of all scratch in which no stage can work; nothing is left behind.

        Raises:
            UserError: if nothing can be written there.
        """
        try:
            try_to_write_in(cls.parent())
        except OSError as error:
            where = f"{VARIABLE} {cls.parent()}" if os.environ.get(VARIABLE) else str(cls.parent())
            raise UserError(
                f"{where} can't be written ({error.strerror or error}); name another folder by {VARIABLE}"
            ) from error

    @property
    def out(self) -> Path:
        """What will be published."""
        return self.folder / "out"

    @property
    def work(self) -> Path:
        """What helps to resume and is not published."""
        return self.folder / "work"

    @property
    def manifest(self) -> Path:
        """The manifest; written last, it means that `out` is whole."""
        return self.folder / manifests.NAME

    @property
    def lock_file(self) -> Path:
        """The lock on it, beside it so that it outlives it."""
        return self.folder.parent / ".locks" / self.folder.name

    def read_finished(self, say: Callable[[str], None]) -> dict[str, Any] | None:
        """Return the manifest of a whole result, None if it holds none.

        All of it is read. What is damaged is removed, and the result is unfinished again. Where what helps to
        resume holds the same file under another name, all of that is removed, too.

        Args:
            say: Told of damage.
        """
        try:
            manifest = manifests.read(self.folder)
        except UserError as error:
            manifest, found = None, {self.manifest: f"is damaged ({error.__cause__})"}
        else:
            found = damage.by_digest(self.out, manifest) if manifest else {}
        if not found:
            return manifest
        for file, problem in found.items():
            say(f"{file} {problem}; it is made again")
        damaged = {file.stat().st_ino for file in found if file.exists()}
        shared = any(file.stat().st_ino in damaged for file in manifests.files_below(self.work))
        remove(self.manifest)  # first: a damaged result must not look finished
        for path in (*found, *([self.work] if shared else [])):
            remove(path)
        return None

    def begin_again(self, run: str | None) -> bool:
        """Remove all that is here, so that it is made again from the beginning; return whether that was done.

        It is not if that was done before and the work since is not finished: the stage resumes it.
        Nor is it if the same run of flows has finished it since: then DVC failed to take it over.

        Args:
            run: The run of flows that asks for it, None if a person does.
        """
        marker, asking = self.folder / "made-again", os.fsencode(run or "")
        begun = marker.read_bytes() if marker.exists() else None
        goes_on = begun is not None and (not self.manifest.exists() or (run is not None and begun == asking))
        if not goes_on:
            self.manifest.unlink(missing_ok=True)  # first: half a folder must not look finished
            remove(self.folder)
            self.folder.mkdir(parents=True)
        marker.write_bytes(asking)  # it may be another run that goes on
        return not goes_on

    @contextmanager
    def lock(self, say: Callable[[str], None]) -> Iterator[None]:
        """Hold the only right to write here; wait for another process that has it."""
        lock = FileLock(self.lock_file)
        self.lock_file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say("another process is making this very result; waiting for it")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def made(self) -> float:
        """Return when it was finished, 0 if another process has just removed it."""
        try:
            return self.manifest.stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def prune(self) -> None:
        """Remove older finished scratch of this stage and key; unfinished work and the newest stay.

        The newest stays because DVC may have been killed before it took the result over.
        """
        address = self.folder.name.rpartition(".")[0]
        finished = [
            Scratch(folder)
            for folder in self.folder.parent.glob(f"{address}.*")
            if folder != self.folder and (folder / manifests.NAME).exists()
        ]
        for scratch in sorted(finished, key=Scratch.made)[:-1]:
            lock = FileLock(scratch.lock_file)
            try:
                with lock.acquire(timeout=0):
                    scratch.manifest.unlink(missing_ok=True)  # first: half a folder must not look finished
                    shutil.rmtree(scratch.folder, ignore_errors=True)
            except Timeout:
                continue


def publish(scratch: Scratch, out: Path) -> None:
    """Link the files of a finished scratch into `out`, replacing what is there.

    Links, not moves: if DVC is killed while it takes the result over, scratch still has it all.
    """
    new, old = (out.with_name(out.name + suffix) for suffix in (".tmp", ".old"))
    for leftover in (new, old):
        remove(leftover)
    for file in manifests.files_below(scratch.out):
        link(file, new / file.relative_to(scratch.out))
    link(scratch.manifest, new / manifests.NAME)
    flush_below(new, names_only=True)
    if out.exists():
        out.rename(old)
    new.rename(out)
    remove(old)


def link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy where the file systems can't link."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        with written_whole(target) as temporary:
            shutil.copyfile(source, temporary)
