"""Names of settings and plug-ins that changed, and the nearest name to one that does not exist."""

from collections.abc import Sequence
from difflib import get_close_matches

RENAMED = {
    # settings
    "calls": "nfe",
    "reference_calls": "reference_nfe",
    "given": "checkpoint",
    "coupling": "train_on",
    "head_start": "fake_warmup",
    "anchor": "regression_weight",
    # values
    "distribution": "dmd",
    "score": "sim",
    "endpoint": "coordinate_descent",
    "knots": "timesteps",
}
"""Today's name by the old one. An old name may still be in use elsewhere: `nearest` asks what exists."""

MOVED = {
    "prepare.feature_net": "nets.metric",
    "prepare.metric_nets": "nets.metric",
    "prepare.monitor_net": "nets.monitor",
    **{
        f"pretrain.{name}": f"pretrain.KEY.{name}"
        for name in (
            *("method", "model", "prediction", "path", "noise", "conditional", "train", "checkpoint"),
            "gates",
        )
    },
}
"""Today's place of a setting that is in another section now."""


def nearest(name: str, names: Sequence[str], *, cutoff: float = 0.6) -> str | None:
    """Return which of `names` was probably meant: today's name of an old one, or one spelled alike.

    Args:
        name: What does not exist.
        names: What does.
        cutoff: Least similarity of the spellings, 0 to 1; see difflib.get_close_matches.
    """
    if RENAMED.get(name) in names:
        return RENAMED[name]
    return next(iter(get_close_matches(name, names, n=1, cutoff=cutoff)), None)
