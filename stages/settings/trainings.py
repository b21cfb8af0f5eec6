"""What a training needs that other settings, or this machine, may not give it."""

from collections.abc import Iterable, Iterator
from importlib.util import find_spec

from fewstep import variables
from fewstep.errors import UserError
from fewstep.settings import TrainSettings
from fewstep.spacings import all_dividing, dividing
from stages.settings import discovery
from stages.settings.models import equal_steps
from stages.settings.params import Params


def wrong_training(train: TrainSettings, learns_from: str, params: Params) -> Iterator[str]:
    """Yield what is wrong with the settings of a training, each to follow its place in params.yaml.

    Args:
        train: The settings.
        learns_from: The samples, as distill.<key>.train_on names them.
        params: All settings.
    """
    stage, _, key = learns_from.partition("/")
    if stage in ("couple", "trajectories") and key in params.keys(stage):
        source = params.config(stage, key)
        unit = "pairs" if stage == "couple" else "samples"
        made = getattr(source, unit)
        if made < train.batch and not getattr(source, "source", None):  # a file may hold more
            yield (
                f".train.batch {train.batch} is more than it learns from: {stage}.{key}.{unit} is {made}; "
                "lower the one or raise the other"
            )
    if train.moments == "8bit" and find_spec("torchao") is None:
        yield ".train.moments 8bit needs torchao: pip install 'fewstep[eight-bit]'"


def wrong_monitor(key: str, params: Params) -> Iterator[str]:
    """Yield what is wrong with the monitor of a student, each to follow its place in params.yaml."""
    student = params.config("distill", key)
    monitor, needs, finest = student.monitor, student.method.options.needs, equal_steps(params, key)
    if monitor is None:
        return
    if needs.last_velocity:
        yield " looks at samples of a student, and a refiner makes none without its teacher: set it to null"
    if monitor.nfe and student.nfe != "any":
        yield (
            f".nfe is for a student of any nfe; one of {student.nfe} is looked at on its own grid: set it to "
            "null"
        )
    elif finest and monitor.nfe and dividing(finest, monitor.nfe) != monitor.nfe:
        yield f".nfe {list(monitor.nfe)}: {key} takes equal steps; name none but {all_dividing(finest)}"
    if needs.features == "monitor":
        yield (
            " sees the features that the method's own loss pulls at, so it would choose by them; set it to "
            "null, or feature_net to another, or feature_weight to 0"
        )


def must_share_batches(params: Params, addresses: Iterable[str]) -> None:
    """Refuse trainings whose batches the processes of this machine can't share equally.

    Args:
        params: All settings.
        addresses: The stages, such as distill@boss-4; those that train nothing pass.

    Raises:
        UserError: One can't; the message has a line for each.
    """
    machines = variables.count("FEWSTEP_NODES", "machines", default=1)
    ranks = machines * variables.count("FEWSTEP_PROCESSES", "processes", default=1)
    problems = [
        f"{address.replace('@', '.')}.train.batch is {batch}; set it to a multiple of {ranks}"
        for address in addresses
        if (batch := _batch(params, address)) % ranks
    ]
    if problems:
        told = "".join(f"\n  {problem}" for problem in problems)
        raise UserError(
            f"{ranks} processes (FEWSTEP_PROCESSES, FEWSTEP_NODES) can't share these batches equally:{told}"
        )


def _batch(params: Params, address: str) -> int:
    """Return how many samples a batch of a stage has, 0 if it trains nothing."""
    stage, _, key = address.partition("@")
    if stage not in discovery.names() or key not in params.keys(stage):  # dvc.yaml may have the user's own
        return 0
    config = params.config(stage, key)
    train = None if getattr(config, "checkpoint", None) else getattr(config, "train", None)
    return train.batch if isinstance(train, TrainSettings) else 0
