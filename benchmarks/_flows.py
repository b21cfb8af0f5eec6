"""What solvers are tried on: two Gaussian mixtures, whose flows are known, and models that a user names."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from torch import Tensor

from benchmarks._mixtures import Mixture
from fewstep.checkpoint import load_model
from fewstep.conditions import Conditions
from fewstep.draws import draws, draws_of
from fewstep.flow import FieldFlow, Flow, as_flow
from fewstep.noises import GAUSSIAN

MIXTURES = ((2, 6, 0.5), (32, 10, 0.3))  # dimensions, components, standard deviation


def flows(
    folders: Sequence[str], *, stream: str, noises: int
) -> Iterator[tuple[str, Flow, Tensor, dict[str, Tensor]]]:
    """Yield each flow with its title, noise (noises, *shape), and what that is conditioned on."""
    everything, none = range(noises), Conditions()
    for dimensions, components, std in MIXTURES:
        (drawn,) = draws(
            stream, 0, everything, shape=(dimensions,), law=GAUSSIAN, conditions=none, batch=noises
        )
        title = f"{dimensions}-D, {components} components of standard deviation {std}"
        yield title, FieldFlow(Mixture.drawn(dimensions, components, std)), *drawn
    for folder in folders:
        model = load_model(Path(folder)).eval()
        (drawn,) = draws_of(model, stream, 0, everything, batch=noises)
        yield folder, as_flow(model), *drawn
