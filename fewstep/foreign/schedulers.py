"""What a scheduler_config.json of diffusers says of the model that it was written with."""

from typing import Any

from fewstep.errors import UserError

PREDICTIONS = {"epsilon": "noise", "sample": "data", "v_prediction": "v"}
PREDICTIONS_OF_EDM = {"epsilon": "reverse_v", "v_prediction": "v"}
SIGMAS = ("sigma_min", "sigma_max", "sigma_data")
TABLE = ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "rescale_betas_zero_snr")
DEFAULTS: dict[str, Any] = {
    "_class_name": "a scheduler without a name",
    "num_train_timesteps": 1000,
    "use_flow_sigmas": False,
    "beta_schedule": "",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "rescale_betas_zero_snr": False,
    "trained_betas": [],
    "prediction_type": "epsilon",
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
}
"""What is read of a scheduler's config, null being the default; a value has the type of the default."""


def read(content: dict[str, Any]) -> dict[str, Any]:
    """Return a scheduler's config with the defaults in it.

    Raises:
        UserError: if a value is of another type, or a table of noise levels has none or one.
    """
    config = DEFAULTS | {k: v for k, v in content.items() if k in DEFAULTS and v is not None}
    for name, value in config.items():
        wanted = type(DEFAULTS[name])
        if type(value) not in ((int, float) if wanted is float else (wanted,)):
            raise UserError(f"the scheduler's {name} must be of type {wanted.__name__}, got {value!r}")
    if config["num_train_timesteps"] < 2:
        raise UserError(
            f"the scheduler's num_train_timesteps must be 2 or more, got {config['num_train_timesteps']}"
        )
    return config


def declared(content: dict[str, Any]) -> dict[str, Any]:
    """Return the prediction, path, time and time scale of a model, from its scheduler's config.

    A flow scheduler's network predicts noise - data, and gets 1000 sigma. Its `shift` moves the times at
    which it is called, not what it is: fewstep searches its own times. A scheduler of betas calls its
    network with the index in a table. One of EDM calls it with its input scaled and a quarter of log sigma,
    and takes what it calls epsilon for the F of Karras et al. 2022 (arXiv 2206.00364), eq. 7.

    Raises:
        UserError: for a scheduler that is neither, a table that has no name, or a setting that can't be.
    """
    config = read(content)
    name, steps = config["_class_name"], config["num_train_timesteps"]
    if name.startswith(("FlowMatch", "FlowMap")) or config["use_flow_sigmas"]:
        return {"prediction": "reverse_velocity", "path": "linear", "time": "1-t", "time_scale": float(steps)}
    if name.startswith("EDM"):
        return {
            "prediction": prediction_of(config, PREDICTIONS_OF_EDM),
            "path": {"name": "edm", **{key: float(config[key]) for key in SIGMAS}},
            "time": "log_sigma",
            "time_scale": 0.25,
        }
    if not config["beta_schedule"]:
        raise UserError(
            f"{name} is no scheduler of a flow, a table of betas or EDM; declare the model yourself"
        )
    if config["trained_betas"]:
        raise UserError(f"{name} has its own trained_betas, which no path of fewstep has")
    return {
        "prediction": prediction_of(config, PREDICTIONS),
        "path": {"name": "table", **{key: config[key] for key in TABLE}},
        "time": "1-t",
        "time_scale": float(steps - 1),
    }


def prediction_of(config: dict[str, Any], names: dict[str, str]) -> str:
    """Return what fewstep calls the prediction of a scheduler.

    Raises:
        UserError: if it is none of the names.
    """
    if (prediction := config["prediction_type"]) not in names:
        raise UserError(
            f"{config['_class_name']} has the prediction_type {prediction!r}; fewstep knows of it "
            f"{', '.join(names)}"
        )
    return names[prediction]
