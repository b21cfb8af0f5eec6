"""What stages tell of pairs: the lines their teacher learnt, the checks of a coupling, and the pair loss."""

from dataclasses import asdict
from pathlib import Path

from fewstep.pairs import PairLoss
from fewstep.training.loop import Trained
from stages.artifacts import manifests
from stages.run.runner import Job

TOLD = ("checks", "problems", "advice")  # the facts of a coupling that go with each model made of it


def learnt_independent(model: Path) -> bool:
    """Return whether a model learnt from noise drawn independently of the data, as a pretrained one may."""
    made = manifests.read(model)
    if made is None or made["stage"] != "pretrain":
        return False
    return made["config"]["method"].get("coupling", "independent") == "independent"


def tell_of_pairs(job: Job, source: Path, pairs: int, trained: Trained) -> None:
    """Note among the job's facts what is known of its coupling, and how the model does on fresh pairs.

    Args:
        job: of the training; it gains the facts "pair_loss", and "pairs" if the coupling has a manifest.
        source: the coupling, whose name is its key.
        pairs: how many it has to train on.
        trained: what came of them.
    """
    assert trained.known_losses is not None
    assert trained.fresh_losses is not None
    loss = PairLoss.of(trained.known_losses, trained.fresh_losses)
    advice = loss.advice(pairs, f"couple.{source.name}")
    job.progress.note(advice)
    job.facts["pair_loss"] = asdict(loss) | {"advice": advice}
    if manifest := manifests.read(source):
        job.facts["pairs"] = {name: manifest["facts"][name] for name in TOLD if name in manifest["facts"]}
