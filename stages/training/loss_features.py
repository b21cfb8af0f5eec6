"""The net by whose features a loss compares samples: one that measures no result."""

from pathlib import Path

from torch import Tensor, nn

from fewstep import codec
from fewstep.codec import Codec
from fewstep.errors import UserError
from fewstep.metrics import denoiser, features, public
from fewstep.shards import Shards


class OfLatents(nn.Module):
    """The features of the images that latents stand for; derivatives go through the decoder."""

    def __init__(self, through: Codec, net: nn.Module) -> None:
        super().__init__()
        self.through, self.decoder, self.net = through, through.network, net

    def forward(self, latents: Tensor) -> Tensor:
        """Return features (n, d) of latents (n, c, h, w)."""
        return self.net(self.through.images(latents))


def read(name: str, prepared: Path, nets: Path) -> nn.Module:
    """Return the net as a network that makes features, (n, d), of samples as models make them.

    Args:
        name: monitor, or efficientnet_lite0.
        prepared: The result of `prepare`.
        nets: That of `nets`.

    Raises:
        UserError: if samples are no images, or none that the net suits; or if it measures results.
    """
    through, train = codec.of_prepared(prepared), Shards(prepared / "train")
    shape, pixels = tuple(train.fields["data"]["shape"]), train.facts["pixels"] or through is not None
    if not pixels:
        raise UserError(
            f"feature_weight compares features of images, and samples of shape {shape} are none; set it to "
            "0, or set prepare.codec if they are latents"
        )
    net: nn.Module
    if name == "efficientnet_lite0":
        net = _public(shape if through is None else through.image_shape(shape), nets)
    else:
        net = features.Features(features.load(nets, name=denoiser.MONITOR)[0])
    return net if through is None else OfLatents(through, net)


def _public(shape: tuple[int, ...], nets: Path) -> nn.Module:
    if not public.suits(shape, pixels=True):
        raise UserError(
            f"feature_net efficientnet_lite0 sees colour images of {public.LEAST_SIDE} pixels a side or "
            f"more; these have shape {shape}: take monitor"
        )
    if (nets / f"{public.NAME}.json").exists():
        raise UserError(
            "feature_net efficientnet_lite0 measures results here; set nets.metric.public_features to false, "
            "or take monitor"
        )
    return public.PublicFeatures()
