"""Text encoders and tokenizers, as small as they go, and pipelines of diffusers with them."""

import torch
from foreign import tiny_networks
from foreign.tiny_networks import autoencoder, pixart, sd3, text_unet
from tiny_tokenizers import LETTERS, clip_tokenizer, t5_tokenizer

from fewstep.lazy import lazy_imports

with lazy_imports():  # takes seconds, also of the processes that run other tests
    import diffusers
    import transformers

WIDTH = 6
SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": WIDTH, "intermediate_size": 8}


def clip(kind="CLIPTextModel", **more):
    torch.manual_seed(len(kind))
    sizes = {"vocab_size": 2 + 2 * len(LETTERS), "max_position_embeddings": 12, "projection_dim": 3}
    sizes |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    return getattr(transformers, kind)(transformers.CLIPTextConfig(**SIZES | sizes | more)).eval()


def t5(width=WIDTH):
    torch.manual_seed(5)
    sizes = {"d_model": width, "d_kv": 4, "d_ff": 8, "num_layers": 2, "num_heads": 2}
    config = transformers.T5Config(vocab_size=4 + len(LETTERS), **sizes)
    return transformers.T5EncoderModel(config).eval()


def stable_diffusion():
    scheduler = diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear", steps_offset=1)
    parts = {"vae": autoencoder(), "unet": text_unet(), "scheduler": scheduler, "text_encoder": clip()}
    parts |= {"tokenizer": clip_tokenizer(), "safety_checker": None, "feature_extractor": None}
    return diffusers.StableDiffusionPipeline(**parts, requires_safety_checker=False)


def sdxl():
    added = {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 4,
        "cross_attention_dim": 2 * WIDTH,
    }
    unet = text_unet(**added, projection_class_embeddings_input_dim=3 + 6 * 4)
    parts = {"vae": autoencoder(), "unet": unet, "scheduler": diffusers.EulerDiscreteScheduler()}
    parts |= {"text_encoder": clip(), "text_encoder_2": clip("CLIPTextModelWithProjection")}
    return diffusers.StableDiffusionXLPipeline(
        **parts, tokenizer=clip_tokenizer(), tokenizer_2=clip_tokenizer()
    )


def stable_diffusion_3(*, with_t5=True):
    network = sd3(joint_attention_dim=2 * WIDTH, pooled_projection_dim=6)
    parts = {"transformer": network, "vae": autoencoder()}
    parts |= {"scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)}
    for end in ("", "_2"):
        parts |= {
            "text_encoder" + end: clip("CLIPTextModelWithProjection"),
            "tokenizer" + end: clip_tokenizer(),
        }
    third = (t5(2 * WIDTH), t5_tokenizer()) if with_t5 else (None, None)
    return diffusers.StableDiffusion3Pipeline(**parts, text_encoder_3=third[0], tokenizer_3=third[1])


def pixart_alpha(kind="PixArtAlphaPipeline"):
    parts = {"transformer": pixart(), "vae": autoencoder(), "scheduler": diffusers.DDPMScheduler()}
    return getattr(diffusers, kind)(**parts, text_encoder=t5(), tokenizer=t5_tokenizer())


def flux():
    parts = {"transformer": tiny_networks.flux(), "vae": autoencoder(), "text_encoder_2": t5()}
    parts |= {"scheduler": diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=False)}
    parts |= {"text_encoder": clip(), "tokenizer": clip_tokenizer(), "tokenizer_2": t5_tokenizer()}
    return diffusers.FluxPipeline(**parts)


def pixart_sigma():
    return pixart_alpha("PixArtSigmaPipeline")
