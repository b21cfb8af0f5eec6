"""Feature distances of losses: of images alone, and by nets that measure no result."""

from collections.abc import Iterator

from fewstep.data import of_points
from stages.settings.fields import Named
from stages.settings.params import Params


def wrong_loss_features(where: str, method: Named, params: Params) -> Iterator[str]:
    """Yield what is wrong with the features that a method compares; `where` names its setting.

    What only the data tells is found when it is read.
    """
    net = method.options.needs.features
    if net is None:
        return
    prepare = params.config("prepare")
    if prepare.source is not None and of_points(prepare.source):
        yield (
            f"{where} compares features of images, but prepare.source {prepare.source} makes points; set "
            "feature_weight to 0"
        )
    if prepare.source_options.get("latents") and not prepare.codec:
        yield (
            f"{where} compares features of images, but prepare.source makes latents; set prepare.codec to "
            "their autoencoder, or feature_weight to 0"
        )
    if net == "efficientnet_lite0" and params.config("nets").metric.public_features:
        yield (
            f"{where}.feature_net {net} measures results, which no loss may see; set "
            "nets.metric.public_features to false, or take monitor"
        )
