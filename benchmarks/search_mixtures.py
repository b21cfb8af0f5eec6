"""Every search on three Gaussian mixtures: how far Euler steps end from the truth, on fresh noise.

Run `python -m benchmarks.search_mixtures`. Errors are summed over dimensions; a star would mark a
candidate that is better than `best` beyond luck (see benchmarks/_search_table.py).
"""

import torch

from benchmarks._mixtures import Mixture
from benchmarks._search_table import BEST, BUDGETS, print_table
from fewstep.conditions import Conditions
from fewstep.flow import FieldFlow
from fewstep.noises import GAUSSIAN
from fewstep.searches import Problem
from fewstep.searching.checked import Checked
from fewstep.searching.noise import Drawn

MIXTURES = {  # dimensions, components, standard deviation
    "2-D": (2, 6, 0.15),
    "32-D": (32, 10, 0.1),
    "256-D": (256, 20, 0.05),
}
TRUTH_STEPS = 256


def main() -> None:
    torch.set_num_threads(1)
    comparisons = len(MIXTURES) * len(BUDGETS) * len(BEST.candidates)
    beaten = 0
    for name, (dimensions, components, std) in MIXTURES.items():
        flow = Checked(FieldFlow(Mixture.drawn(dimensions, components, std)))
        noise = Drawn(seed=0, shape=(dimensions,), law=GAUSSIAN, conditions=Conditions(), batch=512)
        problem = Problem(flow, noise, BUDGETS, truth_steps=TRUTH_STEPS)
        title = f"{name}, {components} components of standard deviation {std}"
        beaten += print_table(title, problem, dimensions=dimensions, comparisons=comparisons)
    print(f"\n{beaten} of {comparisons} candidates are better than best beyond luck")


if __name__ == "__main__":
    main()
