"""Tracking as a stage sees it: write to the outbox, and start a sender that delivers it meanwhile."""

import errno
import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fewstep import variables
from stages.artifacts import manifests
from stages.artifacts.plan import Plan
from stages.evaluation import kinds
from stages.tracking import outboxes, recording
from stages.tracking.lineage import describe, device, environment, lock_digest, pipeline_id, samples
from stages.tracking.outboxes import Outbox

WAIT_WHEN_DOWN = 0.3  # seconds to wait for a tracker that was down
LOG_BYTES = 2**20
ATTACHED = {".json", ".csv", ".html", ".safetensors"}
ATTACHED_BYTES = 64 * 2**20
WEIGHTS, CONDITIONS = "model.safetensors", "conditions.safetensors"
HELD_AGAINST = ("backends", "samples", "blocks", "seed")  # in a row of metrics.json
SHORT_TIMEOUTS = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "3", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


class Tracking:
    """The tracked run of one stage; with FEWSTEP_TRACKING=off there is none.

    Raises:
        UserError: if FEWSTEP_TRACKING is neither on nor off.
    """

    def __init__(self, root: Path, plan: Plan) -> None:
        self.root, self.plan = root, plan
        self.outbox = Outbox(root, plan.address) if wanted() else None
        if self.outbox:
            for manifest in plan.ancestors:  # the pipeline's run shows those made earlier, too
                self.link(manifest)
            start_sender(root)

    def begin(self) -> None:
        """Record that the stage starts to work."""
        facts = self.plan.facts()
        about = {"seed": facts["seed"], "version": facts["version"], "environment": environment()}
        params = flatten(about | facts["config"])
        self._add("begin", params=params, **describe(facts | {"fingerprint": self.plan.fingerprint}, "ran"))
        self._add("samples", samples=samples(self.plan.inputs))

    def link(self, manifest: dict[str, Any]) -> None:
        """Record which result was used; if another pipeline run made it, this one gets a link to that."""
        self._add("link", **describe(manifest, "cached"))

    def measured(self, step: int, values: dict[str, float]) -> None:
        """Record numbers of a step."""
        self._add("measure", step=step, values={name: float(value) for name, value in values.items()})

    def picture(self, name: str, file: Path) -> None:
        """Record a picture under a name."""
        if self.outbox:
            self.outbox.attach("pictures", name + file.suffix, file)

    def attach(self, folder: str, file: Path) -> None:
        """Record a file, unless it is large."""
        if self.outbox and file.stat().st_size <= ATTACHED_BYTES:
            self.outbox.attach(folder, file.name, file)

    def made(self, manifest: Path, out: Path, facts: dict[str, Any]) -> None:
        """Record the manifest and small files of the result, and the counts and checks among its facts.

        Weights of a model are left to the model registry. The numbers are called `result.<name>`: as `loss`,
        the final one would begin the curve of losses.
        """
        files = {file for file in out.iterdir() if file.suffix in ATTACHED}
        if model_files(out):
            files -= {out / WEIGHTS, out / CONDITIONS}
        for file in [manifest, *sorted(files)]:
            self.attach("output", file)
        numbers = {n: v for n, v in flatten(facts, "result.").items() if isinstance(v, int | float)}
        self.measured(0, numbers)
        self._add("params", params={"environment.device": device()})

    def published(self, out: Path, manifest: dict[str, Any]) -> None:
        """Record a model or an evaluation for the model registry; other results are not recorded there."""
        if not self.outbox:
            return
        if files := [f for f in model_files(out) if f.stat().st_size <= ATTACHED_BYTES]:
            kept = [self.outbox.keep("model", file.name, file) for file in files]
            self._add("model", name=out.name, files=kept, tags=describe(manifest, "ran")["tags"])
        if rows := list(scores(out, manifest)):
            self._add("scores", rows=rows)

    def end(self, status: str) -> str | None:
        """End the run as FINISHED or FAILED; return a warning if it is not recorded, or the tracker is down.

        It waits for nothing: until DVC has read params.yaml again, an edit would slip in unseen.
        """
        if not self.outbox:
            return None
        self._add("end", status=status)
        self.outbox.close()
        if self.outbox.broken:
            return (
                f"tracking: the outbox could not be written ({self.outbox.broken}); this run is not recorded"
            )
        return send(self.root, seconds=0)

    def _add(self, event: str, **facts: Any) -> None:
        if self.outbox:
            self.outbox.add(event, **facts)


def wanted() -> bool:
    """Return whether anything shall be tracked.

    Raises:
        UserError: if FEWSTEP_TRACKING is neither on nor off.
    """
    return variables.is_on("FEWSTEP_TRACKING", default=True)


def link_cached(root: Path, manifests: list[dict[str, Any]]) -> None:
    """Record what this pipeline run (FEWSTEP_PIPELINE) found made, and dvc.lock as it left it, for `send`."""
    outbox = Outbox(root, "flow")
    for manifest in manifests:
        outbox.add("link", **describe(manifest, "cached", root))
    if digest := lock_digest(root):
        outbox.add("locked", pipeline=pipeline_id(), digest=digest)
    outbox.close()


def send(root: Path, seconds: float) -> str | None:
    """Wait until the outbox is delivered, but not for long; return a warning if anything is not."""
    try:
        return _wait(root, seconds)
    except OSError as error:  # a sender took its note away, or the disk is full: no reason to fail a stage
        return f"tracking: the outbox could not be read ({error})" if error.errno != errno.ENOENT else None


def _wait(root: Path, seconds: float) -> str | None:
    outbox = outboxes.folder(root)
    start_sender(root)  # the one that was there may have gone
    end = time.monotonic() + (min(seconds, WAIT_WHEN_DOWN) if outboxes.down(outbox).exists() else seconds)
    while ours := [file for file in outboxes.waiting(outbox) if not outboxes.live(file)]:
        if time.monotonic() > end:
            break
        time.sleep(0.05)
    warnings = []
    if ours and (seconds or outboxes.down(outbox).exists()):  # else a sender is at it, and nobody waited
        down = outboxes.down(outbox)
        reason = f"the tracker is down ({down.read_text()})" if down.exists() else "delivery takes long"
        warnings.append(
            f"tracking: {reason}; the records of {outboxes.whose(ours)} wait in {outbox}, and a later stage "
            "or `fewstep run` sends them"
        )
    if kept := outboxes.refused(outbox):
        warnings.append(
            f"tracking: the tracker refused records of {outboxes.whose(kept)} ("
            f"{kept[-1].read_text().splitlines()[0]}). They are kept with the reasons in {kept[0].parent}; "
            f"to send them again, move them to {outbox}, else remove them"
        )
    return "\n".join(warnings) or None


def start_sender(root: Path) -> None:
    """Start a process that delivers the outbox; it outlives this one by what that takes."""
    outbox = outboxes.folder(root)
    try:
        with (outbox / "sender.log").open("a") as log:
            if log.tell() > LOG_BYTES:
                log.truncate(0)
            subprocess.Popen(
                [sys.executable, "-m", "stages.tracking.sender", str(root)],
                cwd=root,
                env=SHORT_TIMEOUTS | recording.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
    except OSError:
        return


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested values under dotted names."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def model_files(out: Path) -> list[Path]:
    """Return the files of a result that is a model; [] if it is none."""
    files = [out / name for name in (WEIGHTS, "config.json", manifests.NAME)]
    files += [out / CONDITIONS] if (out / CONDITIONS).exists() else []
    return files if (out / WEIGHTS).exists() and (out / "config.json").exists() else []


def scores(out: Path, manifest: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what an evaluation found of each student; nothing if the result is no evaluation.

    Only numbers of one yardstick compare: the same data and classifier, as many samples, the same noise.
    """
    if not (out / "metrics.json").exists():
        return
    for row in json.loads((out / "metrics.json").read_text())["rows"]:
        if row["grid"] == kinds.OWN:  # which alone fixes the NFE of the model
            data = manifest["inputs"]["data"]["fingerprint"]
            held_against = [data, manifest["version"], *(row[name] for name in HELD_AGAINST)]
            yield {
                "model": row["model"],
                "fingerprint": manifest["inputs"][f"model {row['model']}"]["fingerprint"],
                "nfe": row["nfe"],
                "fd_clf": row["fd_clf"],
                "fd_clf_se": row["fd_clf_se"],
                "yardstick": hashlib.sha256(json.dumps(held_against).encode()).hexdigest()[:16],
            }
