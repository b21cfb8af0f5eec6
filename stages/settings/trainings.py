"""What a training needs that other settings, or this machine, may not give it."""

from collections.abc import Iterator
from importlib.util import find_spec

from fewstep.settings import TrainSettings
from stages.settings.params import Params


def wrong_training(train: TrainSettings, learns_from: str, params: Params) -> Iterator[str]:
    """Yield what is wrong with the settings of a training, each to be told after its place in params.yaml.

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
