"""Snapshots: the power-function averages of the student's weights, kept at even steps of a training."""

import math
from pathlib import Path

from fewstep import distributed, power_averages
from fewstep.training.networks import Training
from fewstep.training.sharding import whole
from fewstep.training.trainee import width_name


class Snapshots:
    """Writes the averages of the settings' widths, if there are any, to files named by their updates."""

    def __init__(self, folder: Path, training: Training) -> None:
        self.folder, self.training, self.settings = folder, training, training.settings
        self.student = training.trainees["student"]
        self.seen = math.inf  # those of a process that was killed may be later than where this one goes on

    def before_step(self) -> None:
        """Write if this step is due, and remove what is of updates that have been taken back."""
        self._forget()
        every = math.ceil(self.settings.steps / self.settings.snapshots)
        if self.training.step and self.training.step % every == 0:
            self._save()

    def finish(self) -> None:
        """Write the averages that the training ends with, and keep none of later updates."""
        self._forget()
        self._save()

    def _forget(self) -> None:
        updates = self.student.updates
        if updates < self.seen and distributed.rank() == 0:
            for file in self.folder.glob("*.safetensors"):
                if int(file.stem) > updates:
                    file.unlink()
        self.seen = updates

    def _save(self) -> None:
        averages = {}
        for width in self.settings.widths:
            held = self.student.averages[width_name(width)].state_dict()
            averages[width] = {
                name: whole(tensor).detach().cpu().contiguous()
                for name, tensor in held.items()
                if name not in self.student.frozen
            }
        if averages and self.student.updates and distributed.rank() == 0:
            power_averages.save(self.folder / f"{self.student.updates:08}.safetensors", averages)
