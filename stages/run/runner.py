"""How a stage runs: settings, inputs, scratch, progress, tracking, and publishing at the end."""

import errno
import os
import shutil
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fewstep.errors import UserError
from fewstep.progress import Progress
from stages.artifacts import manifests
from stages.artifacts.plan import Plan
from stages.artifacts.publishing import publish
from stages.artifacts.scratch import Scratch, root
from stages.process.parent import die_with_dvc
from stages.process.progress import Shown
from stages.run.command_line import chosen_key, command_line
from stages.settings import discovery
from stages.settings.params import Params
from stages.tracking.tracking import Tracking
from stages.workers.distributed import refuse_torchrun

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the last is a limit on the size of files


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a stage's `run` is given."""

    stage: str
    key: str | None
    seed: int
    inputs: dict[str, Path]
    """Where the inputs lie, by the names that `inputs` gave them."""
    out: Path
    """A folder that is published when `run` returns; after a kill it holds what was written before."""
    scratch: Path
    """A folder for what helps to resume and is not published."""
    result: str
    """A name for what is made, by stage, key and fingerprint, that no other result has."""
    progress: Progress
    picture: Callable[[str, Path], None]
    """Sends a picture to the tracker, under a name."""
    facts: dict[str, Any] = field(default_factory=dict)
    """Counts and checks for the manifest; plain values that the inputs determine."""


def main(file: Path) -> None:
    """Do what the command line asks of the stage that `file` defines, and end the process."""
    stage = Path(file).stem
    options = command_line(stage).parse_args()
    address = discovery.address(stage, options.key)
    try:
        die_with_dvc()
        refuse_torchrun()
        if options.plan:
            tell_plan(stage, options.key, options.price)
        else:
            run(stage, options.key)
    except KeyboardInterrupt:
        sys.exit(f"{address}: stopped; go on with: dvc repro {address}")
    except UserError as error:
        sys.exit(f"{address}: {error}")
    except Exception as error:
        folder = full_folder(error)
        if folder is None:
            traceback.print_exc()
            sys.exit(1)
        free = shutil.disk_usage(folder).free
        sys.exit(
            f"{address}: the disk of {folder} is full ({free:,} bytes free). Make room, then go on where "
            f"this stopped with: dvc repro {address}"
        )


def tell_plan(stage: str, key: str | None, price: float | None) -> None:
    """Print what a stage that makes samples will take.

    Raises:
        UserError: for everything that would stop the stage.
    """
    params = Params.read()
    params.check()
    plan = Plan.read(params, stage, chosen_key(params, stage, key))
    scratch, progress = Scratch.of(plan.address, plan.fingerprint), Shown(plan.address)
    if scratch.finished:
        progress.note("is made already; there is nothing to spend")
        return
    estimate = plan.module.plan(plan.config, job_of(plan, scratch, progress, lambda name, file: None))
    for line in (
        estimate.lines(price) if estimate else ["takes its samples from a file; nothing is to be spent"]
    ):
        progress.note(line)


def run(stage: str, key: str | None) -> None:
    """Bring the output of a stage up to date.

    Raises:
        UserError: for everything that the user can mend.
    """
    params = Params.read()
    params.check()
    plan = Plan.read(params, stage, chosen_key(params, stage, key))
    scratch = Scratch.of(plan.address, plan.fingerprint)
    with scratch.lock(lambda text: print(f"{plan.address}: {text}", flush=True)):
        scratch.prune()
        tracking = Tracking(root(), plan)
        progress = Shown(plan.address, tracking.measured)
        status = "FAILED"
        try:
            if scratch.finished and os.environ.get("FEWSTEP_AGAIN"):
                scratch.forget()
            if scratch.finished:
                progress.note("made before, publishing it")
                tracking.link(manifests.read(scratch.folder))
            else:
                tracking.begin()
                work(plan, scratch, progress, tracking)
            plan.judge(manifests.read(scratch.folder)["facts"])
            plan.check_unchanged()
            publish(scratch, plan.out)
            for picture in sorted(plan.out.glob("*.png")):
                progress.note(f"picture {picture}")
            tracking.published(plan.out)
            status = "FINISHED"
        finally:
            progress.finish()
            if warning := tracking.end(status):
                progress.note(warning)


def work(plan: Plan, scratch: Scratch, progress: Shown, tracking: Tracking) -> None:
    """Run the stage and write the manifest of what it made."""
    for folder in (scratch.out, scratch.work):
        folder.mkdir(parents=True, exist_ok=True)
    job = job_of(plan, scratch, progress, tracking.picture)
    plan.module.run(plan.config, job)
    progress.finish()
    facts = {"fingerprint": plan.fingerprint, "files": manifests.describe(scratch.out), "facts": job.facts}
    manifests.write(scratch.manifest, plan.facts() | facts)
    tracking.made(scratch.manifest, scratch.out, job.facts)


def job_of(plan: Plan, scratch: Scratch, progress: Shown, picture: Callable[[str, Path], None]) -> Job:
    """Return what the stage's functions are given."""
    return Job(
        stage=plan.stage,
        key=plan.key,
        seed=plan.seed,
        inputs={name: item.path for name, item in plan.inputs.items()},
        out=scratch.out,
        scratch=scratch.work,
        result=scratch.folder.name,
        progress=progress,
        picture=picture,
    )


def full_folder(error: BaseException | None) -> Path | None:
    """Return the folder in which there is no space left, None if neither error nor its causes say so."""
    while error is not None:
        if getattr(error, "errno", None) in FULL or any(os.strerror(number) in str(error) for number in FULL):
            folder = Path(getattr(error, "filename", None) or "").parent
            return folder if folder.is_dir() and folder != Path() else Scratch.parent()
        error = error.__cause__ or error.__context__
    return None
