"""Publishing: a finished result appears in the working directory whole or not at all."""

import os
import shutil
from pathlib import Path

from stages.artifacts import manifests
from stages.artifacts.scratch import Scratch


def publish(scratch: Scratch, out: Path) -> None:
    """Link the files of a finished scratch into `out`, replacing what is there.

    Links, not moves: if DVC is killed while it takes the result over, scratch still has it all.
    """
    new, old = (out.with_name(out.name + suffix) for suffix in (".tmp", ".old"))
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    for file in manifests.files_below(scratch.out):
        link(file, new / file.relative_to(scratch.out))
    link(scratch.manifest, new / manifests.NAME)
    if out.exists():
        out.rename(old)
    new.rename(out)
    shutil.rmtree(old, ignore_errors=True)


def link(source: Path, target: Path) -> None:
    """Make `target` the same file as `source`, or a copy where the file systems can't link."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
