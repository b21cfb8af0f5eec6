"""What a trained flow makes of noise: pairs, trajectories, and the checks they must pass."""

from fewstep.couplings.teacher.checks import PairChecks, check_pairs
from fewstep.couplings.teacher.pairs import make_pairs
from fewstep.couplings.teacher.trajectories import make_trajectories, select_knots

__all__ = ["PairChecks", "check_pairs", "make_pairs", "make_trajectories", "select_knots"]
