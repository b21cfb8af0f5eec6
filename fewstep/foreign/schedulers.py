"""What a scheduler_config.json of diffusers says of the model that it was written with."""

from typing import Any

from fewstep.errors import UserError

PREDICTIONS = {"epsilon": "noise", "sample": "data", "v_prediction": "v"}
TABLE = ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "rescale_betas_zero_snr")
DEFAULTS = {"num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}


def declared(config: dict[str, Any]) -> dict[str, Any]:
    """Return the prediction, path, time and time scale of a model, from its scheduler's config.

    A flow scheduler's network predicts noise - data, and gets 1000 sigma. Its `shift` moves the times at
    which it is called, not what it is: fewstep searches its own times. A scheduler of betas calls its
    network with the index in a table.

    Raises:
        UserError: for a scheduler that is neither, or a table that has no name.
    """
    name = config.get("_class_name", "a scheduler without a name")
    steps = config.get("num_train_timesteps", DEFAULTS["num_train_timesteps"])
    if name.startswith("FlowMatch") or config.get("use_flow_sigmas"):
        return {"prediction": "reverse_velocity", "path": "linear", "time": "1-t", "time_scale": float(steps)}
    if "beta_schedule" not in config or name.startswith("EDM"):
        raise UserError(
            f"{name} is no scheduler of a flow or of a table of betas; declare the model yourself"
        )
    if config.get("trained_betas") is not None:
        raise UserError(f"{name} has its own trained_betas, which no path of fewstep has")
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in PREDICTIONS:
        raise UserError(
            f"{name} has the prediction_type {prediction!r}; fewstep knows {', '.join(PREDICTIONS)}"
        )
    table = {key: value for key, value in (DEFAULTS | config).items() if key in TABLE}
    return {
        "prediction": PREDICTIONS[prediction],
        "path": {"name": "table", **table},
        "time": "1-t",
        "time_scale": float(steps - 1),
    }
