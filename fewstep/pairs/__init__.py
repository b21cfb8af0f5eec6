"""What a trained flow makes of noise: pairs, trajectories, and the checks they must pass."""

from fewstep.pairs.checks import check_pairs
from fewstep.pairs.inverted import invert_pairs
from fewstep.pairs.inverted_checks import InvertedChecks, check_inverted
from fewstep.pairs.mirror import mirror_half, require_equivariant
from fewstep.pairs.pair_checks import PairChecks
from fewstep.pairs.pair_loss import PairLoss
from fewstep.pairs.pairs import make_pairs
from fewstep.pairs.statistics import PairStatistics
from fewstep.pairs.trajectories import make_trajectories, select_timesteps

__all__ = [
    "InvertedChecks",
    "PairChecks",
    "PairLoss",
    "PairStatistics",
    "check_inverted",
    "check_pairs",
    "invert_pairs",
    "make_pairs",
    "make_trajectories",
    "mirror_half",
    "require_equivariant",
    "select_timesteps",
]
