"""How much a ratio to the teacher owes to the nets that measure, and to values that no file can hold.

Run `python -m benchmarks.metric_nets` after `make run`, with the settings it ran with; some minutes. It
samples the converged teacher and every student again, trains a second set of nets from another seed, and
prints for each model

- its ratio to the teacher by the nets of the stage `nets`, by the second set, and how far these are apart;
- the ratio by the public features, of colour images, which neither set contains;
- the ratio as it would be if samples were measured raw, values beyond the range included.

The last line is the largest difference between the two sets.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from torch import Tensor

from fewstep.checkpoint import load_model
from fewstep.flow import as_flow
from fewstep.grids import Grid
from fewstep.metrics import public
from fewstep.metrics.features import FeatureNet
from fewstep.metrics.nets import KINDS, load_nets, train_net
from fewstep.metrics.protocol import Floor, Reference, ratio, score_blocks
from fewstep.metrics.saved import as_saved
from fewstep.shards import Shards
from stages.evaluate import Config
from stages.evaluation.yardstick import Protocol
from stages.nets import MetricNets

PREPARED, NETS, MODELS, EVALUATION = (
    Path("artifacts", name) for name in ("prepare", "nets", "models", "evaluate")
)
OTHER_SEED = 1000
FLOOR = Floor(fd_clf=0.0, kid_clf=0.0, samples=50)  # asked for, not printed


def rated() -> Iterator[tuple[str, list[Tensor]]]:
    """Yield the teacher's finest run, then every student, by name with its blocks of samples."""
    settings = Config(**yaml.safe_load(Path("params.yaml").read_text())["evaluate"])
    found = json.loads((EVALUATION / "metrics.json").read_text())
    rows = [row for row in found["rows"] if row["name"] == found["teacher"]]
    rows += [row for row in found["rows"] if row["student"] and row["guidance"] == 1]
    protocol = Protocol(settings.blocks, settings.samples, settings.batch, rows[0]["seed"])
    for row in rows:
        model = load_model(MODELS / row["model"]).eval()
        grid = Grid(tuple(row["times"]), solver=row["solver"])
        blocks = range(protocol.blocks)
        yield row["name"], [torch.cat(list(protocol.sample(n, model, as_flow(model), grid))) for n in blocks]


def main() -> None:
    torch.set_num_threads(1)
    samples = dict(rated())
    teacher, *students = samples
    train = Shards(PREPARED / "train").load()
    own = load_nets(NETS)
    fixed = {public.NAME: own.pop(public.NAME)} if public.NAME in own else {}
    pixels = next(iter(own.values())).pixels
    data = as_saved(train["data"]) if pixels else train["data"]
    clusters = next((net.classes for net in own.values() if net.taught_by.startswith("clusters")), 10)
    steps = yaml.safe_load(Path("params.yaml").read_text())["nets"].get("metric", {}).get("steps")
    other = {
        kind.name: train_net(
            kind,
            data,
            train.get("label"),
            pixels=pixels,
            steps=steps or MetricNets().steps,
            clusters=clusters,
            seed=OTHER_SEED,
        )
        for kind in KINDS
    }

    def ratios(nets: dict[str, FeatureNet]) -> dict[str, float]:
        references = [Reference.of(net.features(data)) for net in nets.values()]
        scores = {
            name: [
                score_blocks(reference, [net.features(block) for block in blocks], floor=FLOOR, seed=0)
                for reference, net in zip(references, nets.values(), strict=True)
            ]
            for name, blocks in samples.items()
        }
        return {name: ratio(scores[name], scores[teacher]).mean for name in students}

    by_own, by_other = ratios(own), ratios(other)
    by_fixed = ratios(fixed) if fixed else {}
    for net in own.values():
        net.pixels = False
    raw = ratios(own)
    print(f"distance over that of {teacher}, mean of {len(own)} nets")
    print("| model | as saved | second set | apart | public features | raw |")
    print("|---|---|---|---|---|---|")
    apart = {name: by_other[name] / by_own[name] - 1 for name in students}
    for name in students:
        shown = f"{by_fixed[name]:.2f}" if fixed else "-"
        print(
            f"| {name} | {by_own[name]:.2f} | {by_other[name]:.2f} | {apart[name]:+.0%} | {shown} "
            f"| {raw[name]:.2f} |"
        )
    print(f"largest difference between the sets: {max(map(abs, apart.values())):.0%}")


if __name__ == "__main__":
    main()
