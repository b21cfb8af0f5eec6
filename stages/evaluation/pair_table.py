"""The report's table of pairs: how good those were that each model learnt from, and what it made of them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.run.job import Job

ROWS = (  # what is shown, what it should be, and where it is among the facts of a model
    ("pairs checked", "", "{checks[count]}"),
    ("noise: standard errors off", "below 6", "{checks[noise_z]:.2g}"),
    ("… in its", "", "{checks[noise_off]}"),
    ("noise: norm", "1", "{checks[noise_norm]:.4f}"),
    ("noise: least likely norm, in deviations", "", "{checks[worst_norm_z]:.2g}"),
    ("noise: neighbours correlate", "0", "{checks[noise_autocorrelation]:.4f}"),
    ("noise: duplicates", "0", "{checks[duplicates]}"),
    ("noise with data: correlation", "above 0", "{checks[correlation]:.2f}"),
    ("integrated back, noise is missed by", "small", "{checks[back_rmse]:.2g}"),
    ("… that of another pair by", "", "{checks[stranger_rmse]:.2g}"),
    ("cost", "", "{checks[cost]:.4g}"),
    ("cost of random pairs", "above cost", "{checks[independent_cost]:.4g}"),
    ("S of the teacher", "", "{checks[straightness]:.3g}"),
    ("V of the teacher", "", "{checks[crossing]:.3g}"),
    ("gap of the teacher", "0", "{checks[gap]:.2g} ± {checks[gap_se]:.2g}"),
    ("loss on training pairs", "", "{loss[train]:.3g}"),
    ("loss on fresh pairs", "", "{loss[held_out]:.3g}"),
    ("… over that on training pairs", "below 1.1", "{loss[ratio]:.2f}"),
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
    for name, manifest in job.manifests.items():
        if not name.startswith("model ") or "pair_loss" not in manifest["facts"]:
            continue
        pairs, loss = manifest["facts"].get("pairs", {}), manifest["facts"]["pair_loss"]
        model = name.removeprefix("model ")
        facts[model] = pairs | {"loss": loss}
        coupling = next(u["path"] for n, u in manifest["inputs"].items() if n in ("pairs", "train_on"))
        advice[f"pairs of couple/{Path(coupling).name}"] = pairs.get("problems", []) + pairs.get("advice", [])
        learnt[model] = [loss["advice"]]
    rows = [(label, good, [cell(text, found) for found in facts.values()]) for label, good, text in ROWS]
    return PairTable(list(facts), rows, [*advice.items(), *learnt.items()])


def cell(text: str, facts: dict[str, Any]) -> str:
    """Return a row's text with a model's facts in it, "-" if it lacks them."""
    try:
        return text.format_map(facts)
    except (KeyError, TypeError):  # not measured, or None
        return "-"
