"""Models of tiny networks of diffusers, as `adopt` makes them."""

import torch
from foreign import tiny_networks

from fewstep.conditions import Table
from fewstep.flow import as_flow
from fewstep.model import ModelConfig, build

SAMPLES = 6
SIZES = {"addition_embed_type": "text_time", "addition_time_embed_dim": 2}
NETWORKS = {
    "UNet2DModel": (tiny_networks.unet, {"num_class_embeds": 5}, {"classes": 5}),
    "UNet2DConditionModel": (tiny_networks.text_unet, {}, {"conditions": {"text": (3, 6)}}),
    "of SDXL": (
        tiny_networks.text_unet,
        {**SIZES, "projection_class_embeddings_input_dim": 15, "in_channels": 5},
        {"conditions": {"text": (3, 6), "pooled": (3,), "sizes": (6,), "mask": (1, 8, 8)}},
    ),
    "DiTTransformer2DModel": (tiny_networks.dit, {}, {"classes": 5}),
    "SD3Transformer2DModel": (tiny_networks.sd3, {}, {"conditions": {"text": (3, 6), "pooled": (3,)}}),
    "FluxTransformer2DModel": (
        tiny_networks.flux,
        {},
        {"conditions": {"text": (3, 6), "pooled": (6,)}, "guidance_input": True},
    ),
    "PixArtTransformer2DModel": (
        tiny_networks.pixart,
        {},
        {"conditions": {"text": (3, 6), "text_mask": (3,)}},
    ),
}
FLOW = {"path": "linear", "prediction": "reverse_velocity", "time": "1-t", "time_scale": 1000.0}
TABLE = {"name": "table", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
BETAS = {"path": TABLE, "prediction": "noise", "time": "1-t", "time_scale": 999.0}

EDM = {"path": {"name": "edm", "sigma_data": 0.8}, "prediction": "reverse_v"}
EDM |= {"time": "log_sigma", "time_scale": 0.25}


def adopted(name, **declared):
    """Return a model of a network, with what is declared of it."""
    make, options, known = NETWORKS[name]
    network = make(**options)
    config = {k: v for k, v in dict(network.config).items() if not k.startswith("_")}
    architecture = {"name": "diffusers", "network": type(network).__name__, "config": config}
    description = ModelConfig(
        architecture=architecture, shape=tiny_networks.SHAPE, **(FLOW | known | declared)
    )
    generator = torch.Generator().manual_seed(0)
    shapes = description.conditions.items()
    rows = {name: torch.randn(4, *shape, generator=generator).numpy() for name, shape in shapes}
    if "text_mask" in rows:
        rows["text_mask"] = (rows["text_mask"] > -0.5).astype("float32")
        rows["text_mask"][:, 0] = 1
    null = {"text_mask": rows["text_mask"][0]} if "text_mask" in rows else {}
    model = build(description, seed=0, table=Table(rows=rows, null=null) if rows else None)
    model.network.network.load_state_dict(network.state_dict())
    return model.eval()


def flow_of(model):
    """Return u(x, t, until) of a model for a few samples, their states, times and ends."""
    generator = torch.Generator().manual_seed(4)
    x = torch.randn(SAMPLES, *model.config.shape, generator=generator)
    t, until = torch.rand(2, SAMPLES, generator=generator).sort(dim=0).values
    table, flow = model.conditions.table, as_flow(model)
    rows = {} if table is None else table.rows
    given = {name: torch.from_numpy(rows[name])[torch.arange(SAMPLES) % 4] for name in rows}
    if model.config.classes:
        given["label"] = torch.arange(SAMPLES) % model.config.classes
    return lambda x, t, until=None: flow(x, t, until=until, **given), x, t, until


def moved(model):
    """Move all weights, of which the last of a new second time begin as zeros."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=generator))
    return model
