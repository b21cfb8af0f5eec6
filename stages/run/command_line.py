"""The command line of a stage: its key, and for some what they would take."""

from argparse import ArgumentParser

from fewstep.errors import UserError
from stages.settings import discovery
from stages.settings.params import Params


def command_line(stage: str) -> ArgumentParser:
    """Return what reads the command line of a stage."""
    module = discovery.load(stage)
    parser = ArgumentParser(prog=f"python -m stages.{stage}", description=module.__doc__)
    parser.add_argument("key", nargs="?", help=f"a key of {stage} in params.yaml, where it has keys")
    planning = parser.add_argument_group("before spending") if hasattr(module, "plan") else None
    parser.set_defaults(plan=False, price=None)
    if planning:
        planning.add_argument("--plan", action="store_true", help="only tell what it will take")
        planning.add_argument("--price", type=float, help="of an hour of one worker, to tell what it costs")
    return parser


def chosen_key(params: Params, stage: str, key: str | None) -> str | None:
    """Return the key that the command line names.

    Raises:
        UserError: if there is none though the stage needs one, or the other way round, or it's unknown.
    """
    keys = params.keys(stage)
    if key in keys:
        return key
    wanted = "no argument" if keys == [None] else f"one of: {', '.join(map(str, keys))}"
    raise UserError(f"stages.{stage} takes {wanted}; got {key or 'nothing'}")
