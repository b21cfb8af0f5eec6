"""Networks of diffusers, as small as they go, and folders of them as the library writes them."""

import torch

from fewstep.lazy import lazy_imports

with lazy_imports():  # takes seconds, also of the processes that run other tests
    import diffusers

SHAPE = (4, 8, 8)


def unet(**more):
    torch.manual_seed(0)
    blocks = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
    down, up = ("DownBlock2D",) * 2, ("UpBlock2D",) * 2
    sizes = {"sample_size": 8, "in_channels": 4, "out_channels": 4}
    return diffusers.UNet2DModel(**sizes | blocks | {"down_block_types": down, "up_block_types": up} | more)


def text_unet(**more):
    torch.manual_seed(0)
    blocks = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
    down, up = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
    sizes = {"sample_size": 8, "in_channels": 4, "out_channels": 4, "cross_attention_dim": 6}
    sizes |= {"attention_head_dim": 2, "down_block_types": down, "up_block_types": up}
    return diffusers.UNet2DConditionModel(**sizes | blocks | more)


def awake(network):
    """Move the weights, some of which begin as zeros."""
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.05 * torch.randn_like(weight))
    return network


def sd3(**more):
    torch.manual_seed(0)
    sizes = {"sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 4, "num_layers": 2}
    sizes |= {"attention_head_dim": 4, "num_attention_heads": 2, "caption_projection_dim": 8}
    sizes |= {"joint_attention_dim": 6, "pooled_projection_dim": 3, "pos_embed_max_size": 8}
    return awake(diffusers.SD3Transformer2DModel(**sizes | more))


def pixart(**more):
    torch.manual_seed(0)
    sizes = {"sample_size": 8, "patch_size": 2, "in_channels": 4, "out_channels": 8, "num_layers": 2}
    sizes |= {"attention_head_dim": 4, "num_attention_heads": 2, "cross_attention_dim": 8}
    return awake(
        diffusers.PixArtTransformer2DModel(**sizes | {"caption_channels": 6, "norm_num_groups": 4} | more)
    )


def flux(**more):
    torch.manual_seed(0)
    sizes = {"in_channels": 16, "num_layers": 1, "num_single_layers": 1, "guidance_embeds": True}
    sizes |= {"attention_head_dim": 8, "num_attention_heads": 2, "axes_dims_rope": (2, 2, 4)}
    sizes |= {"joint_attention_dim": 6, "pooled_projection_dim": 6}
    return awake(diffusers.FluxTransformer2DModel(**sizes | more))


def dit(**more):
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 4, "num_layers": 2, "norm_num_groups": 4}
    sizes |= {
        "in_channels": 4,
        "out_channels": 8,
        "sample_size": 8,
        "patch_size": 2,
        "num_embeds_ada_norm": 5,
    }
    return awake(diffusers.DiTTransformer2DModel(**sizes | more))


def pipeline(folder, network, scheduler=None, *, component="unet", **saving):
    """Write the folder of a pipeline, as `save_pretrained` would."""
    network.save_pretrained(folder / component, **saving)
    if scheduler:
        scheduler.save_pretrained(folder / "scheduler")
    (folder / "model_index.json").write_text("{}")
    return folder


def autoencoder(**more):
    """One from images (3, 16, 16) to latents (4, 8, 8)."""
    torch.manual_seed(0)
    blocks = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
    blocks |= {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    return diffusers.AutoencoderKL(**blocks | {"scaling_factor": 1.5, "shift_factor": 0.1} | more)
