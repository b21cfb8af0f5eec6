"""The chain in latents: an autoencoder trained on colour patches, and students of a flow in its latents.

Run `python -m benchmarks.latents [steps]` in a checkout with the extra `foreign`. It trains a small
AutoencoderKL of diffusers for so many steps (1500), writes it to data/patches-vae, runs the chain with it in
a variant, and prints the codec's own error and each student's distance over the converged teacher's.
"""

import json
import sys
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks._students import print_students, run_chain
from fewstep.data import source_for
from fewstep.latents import images_of
from fewstep.rows import in_pieces

FOLDER = Path("data/patches-vae")
BATCH, RATE, KL = 64, 2e-3, 1e-4
OVERRIDES = {"prepare.source": "patches", "prepare.codec": {"folder": str(FOLDER)}}


def taught(images: Tensor, steps: int) -> Any:
    """Return an AutoencoderKL, whose library has no types.

    It makes latents (n, 4, 8, 8) of standard deviation 1 of images (n, 3, 16, 16).
    """
    torch.manual_seed(0)
    network: Any = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 32),
        norm_num_groups=8,
        mid_block_add_attention=False,
    )
    optimiser = torch.optim.Adam(network.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for step in range(steps):
        batch = images[torch.randint(len(images), (BATCH,))]
        found = network.encode(batch).latent_dist
        loss = (
            functional.mse_loss(network.decode(found.sample()).sample, batch) + KL * found.kl().mean() / 256
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 99:
            print(f"autoencoder: step {step + 1}/{steps}, loss {loss.item():.3g}", flush=True)
    network.eval()
    with torch.no_grad():
        network.register_to_config(scaling_factor=1 / float(network.encode(images).latent_dist.mean.std()))
    return network


def main() -> None:
    """Train the autoencoder, run the chain, print the students."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 1500
    images = torch.cat(list(in_pieces(images_of(source_for("patches", Path()).load(Path())))))
    taught(images, steps).save_pretrained(FOLDER)
    artifacts = run_chain(OVERRIDES)
    facts = json.loads((artifacts / "prepare" / "manifest.json").read_text())["facts"]["codec"]
    print(f"codec: RMSE of decoded images {facts['rmse']:.3g}; latents of deviation {facts['std']:.3g}")
    print_students(artifacts)


if __name__ == "__main__":
    main()
