"""Networks of the user's files by whose features the evaluation measures, beside those of the stage nets."""

from collections.abc import Mapping

from stages.settings.fields import BackendPlugin, Settings
from stages.settings.models import outside_data


class FeatureSettings(Settings):
    """A network whose features samples are compared in."""

    backend: BackendPlugin
    """The kind of file, a file of fewstep.metrics.backends, and its options."""
    reference: str | None = None
    """An .npz file with the mean `mu` and the covariance `sigma` of the features of real images, below data/;
    null takes the training data."""


def feature_inputs(asked: Mapping[str, FeatureSettings]) -> dict[str, str]:
    """Return what the evaluation reads for them, by names that begin with "features "."""
    found: dict[str, str] = {}
    for name, settings in asked.items():
        files = settings.backend.options.paths() | (
            {"reference": settings.reference} if settings.reference else {}
        )
        found |= {f"features {name} {what}": path for what, path in files.items()}
    return found


def wrong_features(asked: Mapping[str, FeatureSettings]) -> list[str]:
    """Return what is wrong with where they lie: DVC sees what lies under data/ alone."""
    named = [(f"evaluate.{what.replace(' ', '.')}", path) for what, path in feature_inputs(asked).items()]
    return outside_data(named, what="file or folder")
