"""What a trained flow makes of noise: pairs, trajectories, and the checks they must pass."""

from fewstep.couplings.teacher.checks import check_pairs
from fewstep.couplings.teacher.mirror import mirror_half, require_equivariant
from fewstep.couplings.teacher.pair_checks import PairChecks
from fewstep.couplings.teacher.pair_loss import PairLoss
from fewstep.couplings.teacher.pairs import make_pairs
from fewstep.couplings.teacher.statistics import PairStatistics
from fewstep.couplings.teacher.trajectories import make_trajectories, select_knots

__all__ = [
    "PairChecks",
    "PairLoss",
    "PairStatistics",
    "check_pairs",
    "make_pairs",
    "make_trajectories",
    "mirror_half",
    "require_equivariant",
    "select_knots",
]
