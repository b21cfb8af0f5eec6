"""What a scheduler_config.json of diffusers says of the model that it was written with."""

from typing import Any

from pydantic import BaseModel, Field, ValidationError

from fewstep.errors import UserError

PREDICTIONS = {"epsilon": "noise", "sample": "data", "v_prediction": "v"}
TABLE = {"num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "rescale_betas_zero_snr"}


class SchedulerConfig(BaseModel):
    """What fewstep reads of a scheduler_config.json; defaults are those of diffusers."""

    name: str = Field("a scheduler without a name", alias="_class_name")
    num_train_timesteps: int = Field(1000, ge=2)
    use_flow_sigmas: bool | None = False
    beta_schedule: str | None = None
    beta_start: float = 0.0001
    beta_end: float = 0.02
    rescale_betas_zero_snr: bool = False
    trained_betas: list[float] | None = None
    prediction_type: str = "epsilon"


def declared(content: dict[str, Any]) -> dict[str, Any]:
    """Return the prediction, path, time and time scale of a model, from its scheduler's config.

    A flow scheduler's network predicts noise - data, and gets 1000 sigma. Its `shift` moves the times at
    which it is called, not what it is: fewstep searches its own times. A scheduler of betas calls its
    network with the index in a table.

    Raises:
        UserError: for a scheduler that is neither, a table that has no name, or a setting that can't be.
    """
    try:
        config = SchedulerConfig.model_validate(content)
    except ValidationError as error:
        wrong = error.errors(include_url=False)[0]
        where = ".".join(map(str, wrong["loc"]))
        raise UserError(
            f"the scheduler's config is wrong: {where}: {wrong['msg'].lower()}, got {wrong['input']!r}"
        ) from None
    name, steps = config.name, config.num_train_timesteps
    if name.startswith("FlowMatch") or config.use_flow_sigmas:
        return {"prediction": "reverse_velocity", "path": "linear", "time": "1-t", "time_scale": float(steps)}
    if config.beta_schedule is None or name.startswith("EDM"):
        raise UserError(
            f"{name} is no scheduler of a flow or of a table of betas; declare the model yourself"
        )
    if config.trained_betas is not None:
        raise UserError(f"{name} has its own trained_betas, which no path of fewstep has")
    if config.prediction_type not in PREDICTIONS:
        raise UserError(
            f"{name} has the prediction_type {config.prediction_type!r}; "
            f"fewstep knows {', '.join(PREDICTIONS)}"
        )
    return {
        "prediction": PREDICTIONS[config.prediction_type],
        "path": {"name": "table", **config.model_dump(include=TABLE)},
        "time": "1-t",
        "time_scale": float(steps - 1),
    }
