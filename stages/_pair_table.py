"""The report's table of pairs: how good those were that each model learnt from, and what it made of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages import _manifest
from stages._runner import Job

ROWS = (  # what is shown, what it should be, and where it is among the facts of a model
    ("pairs", "", "{checks[count]}"),
    ("noise: standard errors off", "< 6", "{checks[noise_z]:.2g} ({checks[noise_off]})"),
    ("noise: norm", "1", "{checks[noise_norm]:.4f}"),
    ("noise: neighbours correlate", "0", "{checks[noise_autocorrelation]:.4f}"),
    ("noise: least likely norm", "", "{checks[worst_norm_z]:.2g} deviations"),
    ("noise: duplicates", "0", "{checks[duplicates]}"),
    ("integrated back: misses the noise by", "small", "{checks[back_rmse]:.2g}"),
    ("… another pair's noise", "", "{checks[stranger_rmse]:.2g}"),
    ("correlation of noise and data", "> 0", "{checks[correlation]:.2f}"),
    ("cost", "", "{checks[cost]:.4g}"),
    ("cost of random pairs", "> cost", "{checks[independent_cost]:.4g}"),
    ("S of the teacher", "", "{checks[straightness]:.3g}"),
    ("V of the teacher", "", "{checks[crossing]:.3g}"),
    ("gap of the teacher", "0", "{checks[gap]:.2g} ± {checks[gap_se]:.1g}"),
    ("loss on its training pairs", "", "{loss[train]:.3g}"),
    ("loss on fresh pairs", "", "{loss[held_out]:.3g} ± {loss[difference_se]:.1g}"),
    ("fresh over training", "< 1.1", "{loss[ratio]:.2f}"),
)


@dataclass(frozen=True)
class PairTable:
    """What the page shows."""

    models: list[str]
    rows: list[tuple[str, str, list[str]]]
    """What is shown, what it should be, and the cell of each model."""
    advice: list[tuple[str, list[str]]]
    """Sentences about each coupling, then about each model, by name."""


def pair_table(job: Job) -> PairTable:
    """Return the table of the models that learnt from pairs, in the order of the inputs."""
    facts: dict[str, dict[str, Any]] = {}
    advice: dict[str, list[str]] = {}
    learnt: dict[str, list[str]] = {}
    for name, path in job.inputs.items():
        manifest = _manifest.read(path)
        if not name.startswith("model ") or manifest is None or "pair_loss" not in manifest["facts"]:
            continue
        pairs, loss = manifest["facts"].get("pairs", {}), manifest["facts"]["pair_loss"]
        facts[name.removeprefix("model ")] = pairs | {"loss": loss}
        coupling = next(u["path"] for n, u in manifest["inputs"].items() if n in ("pairs", "coupling"))
        advice[f"pairs of couple/{Path(coupling).name}"] = pairs.get("problems", []) + pairs.get("advice", [])
        learnt[path.name] = [loss["advice"]]
    rows = [(label, good, [cell(text, found) for found in facts.values()]) for label, good, text in ROWS]
    return PairTable(list(facts), rows, [*advice.items(), *learnt.items()])


def cell(text: str, facts: dict[str, Any]) -> str:
    """Return a row's text with a model's facts in it, "-" if it lacks them."""
    try:
        return text.format_map(facts)
    except (KeyError, TypeError):  # not measured, or None
        return "-"
