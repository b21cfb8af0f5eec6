"""What is said of a model of another library: where it lies, and what its folder does not say."""

from pydantic import Field, ValidationInfo, field_validator

from fewstep.network_times import NETWORK_TIMES
from fewstep.predictions import PARTS
from fewstep.registry import unknown
from stages.settings.fields import FormatPlugin, NoiseChoice, PathChoice, Settings
from stages.settings.models import outside_data


class Prompts(Settings):
    """Settings of the texts that a model draws the conditions of its samples from."""

    file: str
    """The file with them, below data/: .txt with a prompt a line, or .csv, .tsv or .jsonl."""
    column: str | None = None
    """Which column of a table holds them; null for a table of one."""
    negative: str | None = None
    """What guidance is to lead away from; null leaves it to the pipeline, for most of which it is an empty
    text."""
    tokens: int | None = Field(None, ge=1)
    """How many tokens of a long text are encoded; null takes as many as the pipeline does."""


class AdoptedSettings(Settings):
    """Settings of a model of another library; what is null, its folder says."""

    folder: str
    """The folder with the model, below data/."""
    format: FormatPlugin = Field("diffusers", validate_default=True)
    """What is in the folder, a file of fewstep.foreign.formats, and its options."""
    prediction: str | None = None
    """What the network's output means; a row of fewstep.predictions.PARTS."""
    path: PathChoice | None = None
    """The path from noise to data that it learnt; a name of fewstep.paths.PATHS, or a mapping of the name and
    the path's options."""
    noise: NoiseChoice | None = None
    """The law of the noise, as in pretrain, such as {name: student_t, degrees: 128} of PFGM++; null is normal
    noise, which folders do not say."""
    time: str | None = None
    """Which time it is given; a row of fewstep.network_times.NETWORK_TIMES."""
    time_scale: float | None = Field(None, gt=0)
    """The factor by which that time is multiplied."""
    classes: int | None = Field(None, ge=0)
    """Classes of its labels, without the null condition; null takes all labels that it has."""
    guidance_channels: int | None = Field(None, ge=1)
    """On how many of the first channels guidance acts; null: on all."""
    prompts: Prompts | None = None
    """Texts that the folder's own encoders turn into the model's conditions; null takes those of the data."""

    @field_validator("prediction", "time")
    @classmethod
    def _row_exists(cls, name: str | None, info: ValidationInfo) -> str | None:
        rows = list(PARTS if info.field_name == "prediction" else NETWORK_TIMES)
        if name is not None and name not in rows:
            raise ValueError(unknown(str(info.field_name), name, rows))
        return name


def read_of(adopted: AdoptedSettings) -> dict[str, str]:
    """Return what is read of data/ for a model: its folder, and its prompts if it has any."""
    prompts = {"prompts": adopted.prompts.file} if adopted.prompts else {}
    return {"folder": adopted.folder} | prompts


def misplaced(where: str, adopted: AdoptedSettings) -> list[str]:
    """Return what is wrong with the places of a model and its prompts: DVC sees what lies under data/ alone.

    Args:
        where: The settings' place in params.yaml.
        adopted: The settings.
    """
    files = [(f"{where}.prompts.file", adopted.prompts.file)] if adopted.prompts else []
    return outside_data([(f"{where}.folder", adopted.folder)]) + outside_data(files, what="file")
