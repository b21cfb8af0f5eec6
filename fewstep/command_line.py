"""The command `fewstep`: what is done with a model, and in a checkout what is done with the pipeline.

The package holds `search`, `sample`, `export`, `adopt` and `average`. A checkout of the project has further
commands in flows/commands.py, which is loaded from the working directory or a folder above it.
"""

import importlib
import json
import os
import select
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, TextIO

from cyclopts import App, Parameter

from fewstep import __version__
from fewstep.checkouts import checkout_of
from fewstep.command_progress import CommandProgress
from fewstep.errors import UserError
from fewstep.files import folder_written_whole, must_be_writable, output_written_whole
from fewstep.lazy import lazy_imports

with lazy_imports():  # loaded at first use, so that help is there at once
    import safetensors.torch
    import torch

    from fewstep import (
        checkpoint,
        flow,
        grid_files,
        model_grids,
        opened,
        parallel_steps,
        pictures,
        power_averages,
        randomness,
        registry,
        solvers,
        units,
    )
    from fewstep import codec as codecs
    from fewstep.exporting import folder
    from fewstep.foreign import survey
    from fewstep.searching import call

CODE = Path(__file__).resolve().parents[1]
"""The folder that this package was imported from."""
OF_A_CHECKOUT = ("run", "plan", "why", "check", "sweep", "ui", "deploy", "worker", "recover", "gc")
"""The commands of flows/commands.py."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command that `arguments`, or those of the process, name, and end the process."""
    given = sys.argv[1:] if arguments is None else arguments
    root = checkout_of(Path.cwd())
    if root not in (None, CODE):
        restart_with(root, given)
    try:
        if given[:1] and given[0] in OF_A_CHECKOUT:
            if root is None:
                raise UserError(
                    f"`fewstep {given[0]}` is a command of a checkout of fewstep: neither {Path.cwd()} nor a "
                    "folder above it has flows/commands.py and dvc.yaml. Clone the project and run it there"
                )
            os.chdir(root)
        try:
            app_of(root)(given)
        except SystemExit:  # the end of each command
            sys.stdout.flush()  # a pipe without a reader raises here, and not when the interpreter ends
            raise
        sys.stdout.flush()
    except UserError as error:
        sys.exit(str(error))
    except BrokenPipeError:
        if not (unread := [stream for stream in (sys.stdout, sys.stderr) if is_unread(stream)]):
            raise  # it is of another pipe
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in unread:  # or the interpreter would complain when it ends
            os.dup2(nowhere, stream.fileno())
        sys.exit(1)


def is_unread(stream: TextIO) -> bool:
    """Return whether a stream is a pipe whose reader is gone, such as `head`."""
    poll = select.poll()
    poll.register(stream.fileno(), 0)  # errors alone
    return bool(poll.poll(0))


def restart_with(root: Path, arguments: list[str]) -> None:
    """Become the command line of the checkout `root`: clones may share an environment, but not their code."""
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-P", "-m", "fewstep", *arguments]
    os.execve(sys.executable, command, os.environ | {"PYTHONPATH": path})


def app_of(root: Path | None) -> App:
    """Return the command line, with the commands of the checkout `root` if there is one."""
    app = App(
        name="fewstep",
        version=__version__,
        help="Turn a flow or diffusion model into one that samples in 1 to 8 network calls.",
        help_format="markdown",
        default_parameter=Parameter(negative=()),
    )
    for command in (search, sample, export, adopt, average):
        app.command(command)
    if root is None:
        app.help_epilogue = f"In a checkout of fewstep there are also: {', '.join(OF_A_CHECKOUT)}."
        return app
    sys.path.insert(0, str(root))
    commands = importlib.import_module("flows.commands")  # an import statement would point upwards
    for name in OF_A_CHECKOUT:
        app.command(getattr(commands, name))
    return app


def search(
    model: Path,
    /,
    *,
    budgets: Annotated[list[int], Parameter(consume_multiple=True)],
    method: str = "best",
    solver: str = "euler",
    guidance: float = 1.0,
    report: int = 0,
    teacher: Path | None = None,
    seed: int = 0,
    batch: int = 128,
    device: str = "cpu",
    out: Path = Path("grids.json"),
) -> None:
    """Search the timesteps at which to call a model, for each number of steps.

    Args:
        model: A model directory: model.safetensors and config.json.
        budgets: Numbers of steps to find a grid for, such as 4 8.
        method: The search, a file of fewstep.searches.
        solver: The solver that will take the steps, a file of fewstep.solvers.
        guidance: The scale of classifier-free guidance that the model will be sampled with; 1 is none.
        report: Noises to measure the found grids and equal steps on, 4096 for numbers to publish; 0 for none.
        teacher: The model directory of the teacher, for a student whose timesteps were jittered in training,
            or a flow map that is to be compared with it.
        seed: Seed of the noise.
        batch: Noises in one network call.
        device: Where the model runs, such as cuda.
        out: The file that gets the grids, for `fewstep sample --grid`.

    Raises:
        UserError: A folder holds no model, an option does not fit it, or `out` can't be written.
    """
    must_be_writable(out)
    loaded = opened.load(model, device)
    wanted = sum(registry.find("fewstep.searches", method)().needs().values()) + report
    needed = max(wanted, 1)  # one shows whether the model is deterministic
    noise, conditions = opened.drawn(loaded, needed, seed, device)
    with CommandProgress("search") as progress:
        found = call.search(
            loaded,
            noise,
            budgets=budgets,
            method=method,
            solver=solver,
            guidance=guidance,
            conditions=conditions,
            teacher=opened.load(teacher, device) if teacher else None,
            report=report,
            batch=batch,
            progress=progress,
        )
    digest = checkpoint.model_digest(model)
    result = {
        "grids": {str(steps): asdict(grid) | {"model_digest": digest} for steps, grid in found.items()},
        "scores": {
            str(steps): {name: asdict(score) for name, score in scores.items()}
            for steps, scores in found.scores.items()
        },
    }
    with output_written_whole(out) as temporary:
        temporary.write_text(json.dumps(result, indent=1, sort_keys=True) + "\n")
    print(grid_files.table({steps: found[steps] for steps in budgets}, result["scores"]))
    print(f"Grids: {out.resolve()}")


def sample(
    model: Path,
    /,
    *,
    steps: int | None = None,
    grid: Path | None = None,
    solver: str | None = None,
    sampler: str | None = None,
    guidance: float = 1.0,
    samples: int = 64,
    seed: int = 0,
    batch: int = 128,
    at_once: int = 1,
    refiner: Path | None = None,
    blocks: tuple[int, int, int] | None = None,
    device: str = "cpu",
    codec: Path | None = None,
    out: Path = Path("samples.png"),
) -> None:
    """Sample a model and write the samples as a picture or as tensors.

    A student samples with the grid it was trained for. Any other model needs --grid, --steps or --refiner.

    Args:
        model: A model directory: model.safetensors and config.json.
        steps: The number of steps. With --grid, which of its grids; without, so many equal steps.
        grid: A file that `fewstep search` wrote.
        solver: The solver that takes equal steps, a file of fewstep.solvers, euler if not given; a grid names
            its own.
        sampler: What takes the steps in place of a solver, a file of fewstep.samplers with its defaults: sde,
            for a model that learned from data, or reinterpolate, for one of reflow.
        guidance: The scale of classifier-free guidance; 1 is none.
        samples: How many to make. Those of a model with classes hold each class as often as its data does.
        seed: Seed of the noise.
        batch: Samples in one network call.
        at_once: Euler steps to find together, in fewer but larger calls; each state is kept when it moves by
            less than 0.001.
        refiner: The model directory of a refiner that was trained beside the model, under its guidance.
        blocks: With --refiner, the numbers of equal steps of three kinds: of heun, of heun_pc, refined ones.
        device: Where the model runs, such as cuda.
        codec: The folder of an autoencoder whose latents the model makes; samples are then its images.
        out: A .png file, for images, or a .safetensors file with the tensor `samples` and one
            for each condition, such as `label`.

    Raises:
        UserError: A folder holds no model, an option does not fit it, or `out` can't be written.
    """
    if out.suffix not in (".png", ".safetensors"):
        raise UserError(f"--out needs a name that ends in .png or .safetensors, got {out}")
    must_be_writable(out)
    for name, number in (("samples", samples), ("batch", batch)):
        if number < 1:
            raise UserError(f"--{name} must be 1 or more, got {number}")
    loaded = opened.load(model, device)
    shape = loaded.config.shape
    decoder = codecs.read(codec).to(device) if codec else None
    if decoder:
        decoder.must_decode(shape)
        shape = decoder.image_shape(shape)
    if out.suffix == ".png" and (len(shape) != 3 or shape[0] not in (1, 3)):
        raise UserError(f"samples of shape {shape} are no pictures; write them to --out samples.safetensors")
    follow: Callable[..., solvers.Solution]
    if refiner is not None or blocks is not None:
        others = {"steps": steps, "grid": grid, "solver": solver, "guidance": guidance != 1}
        others |= {"at-once": at_once != 1, "sampler": sampler}
        digest, given = checkpoint.model_digest(model), [name for name, was in others.items() if was]
        follow = opened.beside(loaded, digest, refiner, blocks, given, device)
    else:
        velocity = flow.as_flow(loaded, guidance=guidance)
        chosen = model_grids.choose(loaded.config, steps, grid, solver, guidance)
        chosen.must_suit(model=checkpoint.model_digest(model), guidance=guidance)
        if sampler is not None and (solver or at_once != 1):
            raise UserError(f"--sampler {sampler} takes the steps itself; leave --solver and --at-once out")
        integrate: Callable[..., solvers.Solution] = solvers.integrate
        if at_once != 1:
            integrate = partial(parallel_steps.integrate, at_once=at_once)
        if sampler is None:
            follow = partial(integrate, velocity, grid=chosen)
        else:
            follow = opened.by_sampler(sampler, velocity, chosen)
    noise, conditions = opened.drawn(loaded, samples, seed, device)
    made, nfe = [], 0
    with torch.inference_mode(), CommandProgress("sample") as progress:
        progress.start("", samples, unit="sample")
        for start in range(0, samples, batch):
            part = {name: value[start : start + batch] for name, value in conditions.items()}
            if sampler is not None:
                part["keys"] = randomness.keys_of(seed, start, min(start + batch, samples))
            solution = follow(noise=noise[start : start + batch], **part)
            made.append(codecs.seen(solution.x, decoder).cpu())
            nfe = solution.nfe
            progress.advance(len(solution.x))
    tensors = {
        "samples": units.in_units(torch.cat(made), loaded.config.units),
        **{name: value.cpu() for name, value in conditions.items()},
    }
    with output_written_whole(out) as temporary:
        if out.suffix == ".png":
            pictures.write(tensors["samples"], temporary)
        else:
            temporary.write_bytes(safetensors.torch.save(tensors))  # unlike save_file, it raises OSErrors
    print(f"{samples} samples in {nfe} network calls each: {out.resolve()}")


def export(
    model: Path,
    out: Path,
    /,
    *,
    steps: int | None = None,
    grid: Path | None = None,
    solver: str | None = None,
    guidance: float = 1.0,
    formats: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = (),
    pipeline: Path | None = None,
) -> None:
    """Export a model's whole sampler, from noise to samples, for use without fewstep.

    The folder gets a file for each format, fewstep.json, and a README.md with the call that samples. Each
    file is read back and compared with fewstep.

    Args:
        model: A model directory: model.safetensors and config.json.
        out: The new folder.
        steps: The number of steps. With --grid, which of its grids; without, so many equal steps.
        grid: A file that `fewstep search` wrote.
        solver: The solver that takes equal steps, a file of fewstep.solvers, euler if not given; a grid names
            its own.
        guidance: The scale of classifier-free guidance that the sampler computes; 1 is none.
        formats: Which formats, files of fewstep.exports; pt2 and onnx if nothing is asked for.
        pipeline: The folder of the pipeline of diffusers that the network was adopted from: it is written
            again, with the model for its network.

    Raises:
        UserError: A folder holds no model, an option does not fit it, `out` exists, a library is missing, or
            what a file makes is not what fewstep makes.
    """
    chosen = model_grids.choose(checkpoint.load_config(model), steps, grid, solver, guidance)
    chosen.must_suit(model=checkpoint.model_digest(model), guidance=guidance)
    asked: list[folder.Format] = [*formats]
    if pipeline is not None:
        asked.append({"name": "pipeline", "folder": str(pipeline)})
    elif "pipeline" in asked:
        raise UserError("a whole pipeline is asked for by --pipeline FOLDER, from which its parts are copied")
    differences = folder.export(model, chosen, out, guidance=guidance, formats=asked or ("pt2", "onnx"))
    for name, difference in differences.items():
        print(f"{name}: differs from fewstep by {difference:.1e} at most")
    print(f"Sampler: {out.resolve()}")


def adopt(
    model: Path, /, *, format: str | None = None, data: Path = Path("artifacts/prepare"), device: str = "cpu"
) -> None:
    """Say what lies in a folder of another library, check that on data, and print its lines for params.yaml.

    Args:
        model: A folder of diffusers, one with weights in safetensors, or a model directory.
        format: What is in it, a file of fewstep.foreign.formats or a mapping in JSON with its settings.
        data: What the stage prepare made; without it nothing is checked.
        device: Where the check runs, such as cuda.

    Raises:
        UserError: The folder holds no model that fewstep can take, or the check failed.
    """
    seen = survey.look(model, format)
    opened.placed(seen.model, device)
    verdict = survey.check(seen, data)
    print(survey.report(seen, verdict, Path(os.path.abspath(model)), checkout_of(Path.cwd()) or Path.cwd()))
    survey.refuse(verdict)


def average(model: Path, /, *, width: float, out: Path) -> None:
    """Write a model with another average of its training's weights, which must have been trained with widths.

    Args:
        model: A model directory with averages.
        width: The relative width of the average: a smaller one counts the last steps more.
        out: The new model directory.

    Raises:
        UserError: The folder holds no averages, there is no such width, or `out` exists or can't be written.
    """
    with folder_written_whole(out) as folder:
        checkpoint.save_model(folder, power_averages.averaged(model, width))
    print(f"Model: {out.resolve()}")
