"""How a stage runs: command line, settings, inputs, scratch, progress, tracking, publishing."""

import atexit
import gc
import math
import os
import shutil
import sys
import traceback
from argparse import ArgumentParser
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

from fewstep.errors import UserError
from fewstep.files import flush_below
from fewstep.secrets import scrub
from stages.artifacts import manifests
from stages.artifacts.full_disk import full_folder
from stages.artifacts.plan import Plan
from stages.artifacts.scratch import Scratch, publish, root
from stages.process import again, records
from stages.process.parent import die_with_dvc
from stages.process.progress import StageProgress
from stages.run import variables
from stages.run.job import Job
from stages.settings import checks, discovery
from stages.tracking.tracking import Tracking
from stages.workers.distributed import OthersFinishError, machine_number, refuse_torchrun


def main(file: Path) -> None:
    """Do what the command line asks of the stage that `file` defines, and end the process."""
    atexit.register(gc.freeze)  # else Python looks for garbage among all that torch is, and ends anyway
    stage = Path(file).stem
    options = command_line(stage).parse_args()
    key = options.key or key_from_dvc(stage)
    address = discovery.address(stage, key)
    records.remove_outcome()
    outcome: records.Outcome
    try:
        die_with_dvc()
        refuse_torchrun()
        if options.plan:
            show_plan(stage, key, options.price)
        elif options.price is not None:
            raise UserError(
                "--price is for the estimate; add --plan, or leave the price out to run the stage"
            )
        elif machine_number() > 0:
            help_train(stage, key)
        elif options.ahead:
            work_ahead(stage, key)
        else:
            records.write_outcome(address, run(stage, key))
        return
    except KeyboardInterrupt:
        outcome, message = "interrupted", f"stopped; resume with: {resuming(address)}"
    except UserError as error:
        outcome, message = "mistake", str(error)
    except Exception as error:
        if (folder := full_folder(error)) is None:
            print(scrub(traceback.format_exc()), end="", file=sys.stderr)
            records.write_outcome(address, "crash", scrub(f"{type(error).__name__}: {error}"))
            sys.exit(1)
        free = shutil.disk_usage(folder).free
        outcome, message = (
            "disk full",
            (
                f"the disk of {folder} is full ({free:,} bytes free). Make room, then resume "
                f"with: {resuming(address)}"
            ),
        )
    records.write_outcome(address, outcome, message)
    sys.exit(f"{address}: {message}")


def key_from_dvc(stage: str) -> str | None:
    """Return the key that DVC runs this stage for, None if it is not run by DVC or has no keys.

    DVC tells it in a variable, as `stage@key` or `../dvc.yaml:stage@key`. A command line could not hold a key
    safely: the shell reads it before the stage can refuse it.
    """
    return os.environ.get("DVC_STAGE", "").partition(f"{stage}@")[2] or None


def resuming(address: str) -> str:
    """Return the command that resumes a stage; without -f, DVC would restore the result of before."""
    return f"dvc repro {'-f -s ' if again.asked() else ''}{address}"


def command_line(stage: str) -> ArgumentParser:
    """Return what reads the command line of a stage: its key, and for some whether to estimate alone."""
    module = discovery.load(stage)
    parser = ArgumentParser(prog=f"python -m stages.{stage}", description=module.__doc__)
    parser.add_argument(
        "key", nargs="?", help=f"a key of {stage} in params.yaml; under DVC, the one it asks for"
    )
    parser.set_defaults(plan=False, price=None, ahead=False)
    if hasattr(module, "plan"):
        planning = parser.add_argument_group("estimates")
        planning.add_argument("--plan", action="store_true", help="only print the estimate of time and bytes")
        planning.add_argument(
            "--price", type=float, help="price of an hour of one worker, to estimate the cost"
        )
    if hasattr(module, "ahead"):
        parser.add_argument(
            "--ahead", action="store_true", help="only do what is possible before all inputs are there"
        )
    return parser


def read_plan(stage: str, key: str | None, *, complete: bool = True) -> Plan:
    """Check variables and settings, and return what the stage is to do; without all inputs if not `complete`.

    Raises:
        UserError: for everything that the user can change; also if the stage takes no such key.
    """
    variables.must_be_right()
    params = checks.read_checked()
    if key not in (keys := params.keys(stage)):
        wanted = "no argument" if keys == [None] else f"one of: {', '.join(map(str, keys))}"
        raise UserError(f"stages.{stage} takes {wanted}; got {key or 'nothing'}")
    return Plan.read(params, stage, key, complete=complete)


def show_plan(stage: str, key: str | None, price: float | None) -> None:
    """Print what a stage that makes samples, or trains, will take.

    Raises:
        UserError: for everything that would stop the stage; also for a price that can't be, or of a training.
    """
    if price is not None and not 0 <= price < math.inf:
        raise UserError(f"--price must be that of an hour of a worker, a number from 0, got {price:g}")
    if price is not None and trains(discovery.load(stage)):
        raise UserError(f"--price is for stages that make samples; {stage} trains")
    plan = read_plan(stage, key)
    scratch, progress = Scratch.of(plan.address, plan.fingerprint), StageProgress(plan.address)
    if manifests.read_if_whole(scratch.folder):
        progress.note("is made already; there is nothing to spend")
        return
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # it warns of what a measurement does not see
    estimate = plan.module.plan(plan.config, job_of(plan, scratch, progress))
    if estimate is None:
        lines = ["takes what it makes from a file; nothing is to be spent"]
    else:
        lines = estimate.lines() if price is None else estimate.lines(price)
    for line in lines:
        progress.note(line)


def run(stage: str, key: str | None) -> records.Outcome:
    """Bring the output of a stage up to date, and return whether it was made now or before.

    Raises:
        UserError: for everything that the user can change.
    """
    plan = read_plan(stage, key)
    scratch = Scratch.of(plan.address, plan.fingerprint)
    with scratch.lock(lambda text: print(f"{plan.address}: {text}", flush=True)):
        scratch.prune()
        tracking = Tracking(root(), plan)
        progress = StageProgress(plan.address, tracking.measured)
        status = "FAILED"
        try:
            anew = again.asked() and scratch.begin_again(again.asking_run())
            made_before = scratch.read_finished(progress.note)
            if made_before:
                progress.note("made before, publishing it")
                tracking.link(made_before)
                manifest = made_before
            else:
                tracking.begin()
                manifest = work(plan, scratch, progress, tracking, anew=anew)
            plan.check_gate(manifest["facts"])
            plan.check_unchanged()
            publish(scratch, plan.out)
            for picture in sorted(plan.out.glob("*.png")):
                progress.note(f"picture {picture}")
            tracking.published(plan.out, manifest)
            status = "FINISHED"
        finally:
            progress.finish()
            if warning := tracking.end(status):
                progress.note(warning)
    return "published before" if made_before else "made"


def help_train(stage: str, key: str | None) -> None:
    """Take part in a training whose result the stage of the first machine publishes.

    Raises:
        UserError: for everything that would stop that stage; also if the stage trains nothing.
    """
    plan = read_plan(stage, key)
    if not trains(plan.module):
        raise UserError(f"FEWSTEP_NODE_RANK is {machine_number()}, but {stage} trains nothing; unset it")
    scratch, progress = Scratch.of(plan.address, plan.fingerprint), StageProgress(plan.address)
    # what is finished may be from before the first machine begins again
    if not again.asked() and manifests.read_if_whole(scratch.folder):
        progress.note(
            f"the first machine has finished it; if it makes it again, set {again.VARIABLE} here, too"
        )
        return
    plan.check_inputs()
    with TemporaryDirectory(prefix="fewstep-") as nowhere, suppress(OthersFinishError):
        job = replace(job_of(plan, scratch, progress), out=Path(nowhere))
        plan.module.run(plan.config, job)
    progress.note("the share of this machine is done; the first machine publishes the result")


def trains(module: ModuleType) -> bool:
    """Return whether a stage trains, so that several machines may share it and its samples have no price."""
    return "train" in module.Config.model_fields


def work_ahead(stage: str, key: str | None) -> None:
    """Do what the stage can do with the inputs that are there, for its run to find; nothing is published.

    Raises:
        UserError: for everything that the user can change.
    """
    plan = read_plan(stage, key, complete=False)
    plan.check_inputs()
    scratch, progress = Scratch.of(plan.address, plan.fingerprint), StageProgress(f"{plan.address}, ahead")
    with suppress(KeyboardInterrupt):  # interrupted because a stage needs the slot
        plan.module.ahead(plan.config, job_of(plan, scratch, progress))
        progress.finish()


def work(
    plan: Plan, scratch: Scratch, progress: StageProgress, tracking: Tracking, *, anew: bool
) -> dict[str, Any]:
    """Run the stage, and write and return the manifest of what it made.

    Raises:
        UserError: for everything that the user can change.
    """
    plan.check_inputs()
    for folder in (scratch.out, scratch.work):
        folder.mkdir(parents=True, exist_ok=True)
    job = job_of(plan, scratch, progress)
    job = replace(job, picture=tracking.picture, attach=tracking.attach, again=anew)
    plan.module.run(plan.config, job)
    progress.finish()
    flush_below(scratch.out)  # the manifest says that all of it is whole
    made = {"fingerprint": plan.fingerprint, "files": manifests.describe(scratch.out), "facts": job.facts}
    manifest = plan.facts() | made
    manifests.write(scratch.manifest, manifest)
    tracking.made(scratch.manifest, scratch.out, job.facts)
    return manifest


def job_of(plan: Plan, scratch: Scratch, progress: StageProgress) -> Job:
    """Return what the stage's functions are given."""
    return Job(
        stage=plan.stage,
        key=plan.key,
        seed=plan.seed,
        inputs={name: item.path for name, item in plan.inputs.items()},
        manifests={name: item.manifest for name, item in plan.inputs.items() if item.manifest},
        ancestors=plan.ancestors,
        out=scratch.out,
        scratch=scratch.work,
        result=scratch.folder.name,
        progress=progress,
    )
