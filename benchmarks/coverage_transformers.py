"""Tiny configurations of transformers' architectures, for ``coverage.py``."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

Sizes = dict[str, Any]
TEXT: Sizes = {
    "vocab_size": 60,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
}
GPT: Sizes = {"vocab_size": 60, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 64}
GROUPED: Sizes = {**TEXT, "num_key_value_heads": 2, "head_dim": 12}
IMAGE: Sizes = {
    "image_size": 64,
    "patch_size": 16,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
}
SPEECH: Sizes = {
    "d_model": 48,
    "encoder_layers": 2,
    "encoder_attention_heads": 4,
    "encoder_ffn_dim": 80,
    "decoder_layers": 1,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 80,
    "vocab_size": 60,
}
SMALL_STAGES: Sizes = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}

# name -> configuration class, sizes, kind of input
TRANSFORMERS: dict[str, tuple[str, Sizes, str]] = {
    "bert": ("BertConfig", TEXT, "tokens"),
    "roberta": ("RobertaConfig", {**TEXT, "pad_token_id": 1}, "tokens"),
    "distilbert": (
        "DistilBertConfig",
        {"vocab_size": 60, "dim": 48, "n_layers": 2, "n_heads": 4, "hidden_dim": 80},
        "tokens",
    ),
    "albert": ("AlbertConfig", {**TEXT, "embedding_size": 24}, "tokens"),
    "electra": ("ElectraConfig", {**TEXT, "embedding_size": 24}, "tokens"),
    "mobilebert": (
        "MobileBertConfig",
        {**TEXT, "embedding_size": 24, "intra_bottleneck_size": 32, "true_hidden_size": 32},
        "tokens",
    ),
    "modernbert": ("ModernBertConfig", {**TEXT, "pad_token_id": 0}, "tokens"),
    "convbert": ("ConvBertConfig", {**TEXT, "embedding_size": 48}, "tokens"),
    "squeezebert": ("SqueezeBertConfig", {**TEXT, "embedding_size": 48}, "tokens"),
    "fnet": ("FNetConfig", TEXT, "tokens"),
    "gpt2": ("GPT2Config", GPT, "tokens"),
    "gpt_neo": (
        "GPTNeoConfig",
        {
            "vocab_size": 60,
            "hidden_size": 48,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
        },
        "tokens",
    ),
    "gpt_neox": ("GPTNeoXConfig", TEXT, "tokens"),
    "gptj": ("GPTJConfig", {**GPT, "rotary_dim": 8}, "tokens"),
    "opt": (
        "OPTConfig",
        {**TEXT, "ffn_dim": 80, "word_embed_proj_dim": 48, "max_position_embeddings": 64},
        "tokens",
    ),
    "bloom": (
        "BloomConfig",
        {"vocab_size": 60, "hidden_size": 48, "n_layer": 2, "n_head": 4},
        "tokens",
    ),
    "llama": ("LlamaConfig", GROUPED, "tokens"),
    "mistral": ("MistralConfig", GROUPED, "tokens"),
    "qwen2": ("Qwen2Config", GROUPED, "tokens"),
    "qwen3": ("Qwen3Config", GROUPED, "tokens"),
    "gemma": ("GemmaConfig", GROUPED, "tokens"),
    "phi": ("PhiConfig", TEXT, "tokens"),
    "phi3": ("Phi3Config", {**GROUPED, "pad_token_id": 0}, "tokens"),
    "falcon": ("FalconConfig", TEXT, "tokens"),
    "olmo2": ("Olmo2Config", GROUPED, "tokens"),
    "mamba": (
        "MambaConfig",
        {"vocab_size": 60, "hidden_size": 48, "num_hidden_layers": 2, "state_size": 4},
        "tokens",
    ),
    "t5": (
        "T5Config",
        {"vocab_size": 60, "d_model": 48, "d_kv": 12, "d_ff": 80, "num_layers": 2, "num_heads": 4},
        "encoder",
    ),
    "bart": ("BartConfig", {**SPEECH, "max_position_embeddings": 64}, "encoder"),
    "whisper": (
        "WhisperConfig",
        {**SPEECH, "num_mel_bins": 20, "max_source_positions": 32, "pad_token_id": 0},
        "speech",
    ),
    "wav2vec2": (
        "Wav2Vec2Config",
        {
            **TEXT,
            "conv_dim": (16, 16, 16),
            "conv_stride": (5, 2, 2),
            "conv_kernel": (10, 3, 3),
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 4,
        },
        "sound",
    ),
    "hubert": (
        "HubertConfig",
        {
            **TEXT,
            "conv_dim": (16, 16, 16),
            "conv_stride": (5, 2, 2),
            "conv_kernel": (10, 3, 3),
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 4,
        },
        "sound",
    ),
    "vit": ("ViTConfig", IMAGE, "image"),
    "deit": ("DeiTConfig", IMAGE, "image"),
    "beit": ("BeitConfig", {**IMAGE, "use_relative_position_bias": True}, "image"),
    "dinov2": ("Dinov2Config", {**IMAGE, "mlp_ratio": 2}, "image"),
    "vit_mae": ("ViTMSNConfig", IMAGE, "image"),
    "clip_vision": ("CLIPVisionConfig", {**IMAGE, "projection_dim": 32}, "image"),
    "siglip_vision": ("SiglipVisionConfig", IMAGE, "image"),
    "segformer": (
        "SegformerConfig",
        {
            "hidden_sizes": [16, 32, 40, 64],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 5, 8],
            "decoder_hidden_size": 32,
        },
        "image",
    ),
    "pvt": (
        "PvtConfig",
        {
            "image_size": 64,
            "hidden_sizes": [16, 32, 40, 64],
            "depths": [1, 1, 1, 1],
            "num_attention_heads": [1, 2, 5, 8],
        },
        "image",
    ),
    "poolformer": ("PoolFormerConfig", SMALL_STAGES, "image"),
    "convnextv2": ("ConvNextV2Config", SMALL_STAGES, "image"),
    "resnet": (
        "ResNetConfig",
        {**SMALL_STAGES, "embedding_size": 16, "layer_type": "basic"},
        "image",
    ),
    "mobilenet_v1": ("MobileNetV1Config", {"depth_multiplier": 0.25}, "image"),
    "mobilevit": ("MobileViTConfig", {"image_size": 64}, "image"),
    "swin": (
        "SwinConfig",
        {
            "image_size": 64,
            "embed_dim": 16,
            "depths": [2, 2],
            "num_heads": [2, 4],
            "window_size": 4,
        },
        "image",
    ),
    "swinv2": (
        "Swinv2Config",
        {
            "image_size": 64,
            "embed_dim": 16,
            "depths": [2, 2],
            "num_heads": [2, 4],
            "window_size": 4,
        },
        "image",
    ),
    "focalnet": (
        "FocalNetConfig",
        {
            "image_size": 64,
            "embed_dim": 16,
            "depths": [1, 1],
            "hidden_sizes": [16, 32],
            "focal_levels": [2, 2],
            "focal_windows": [3, 3],
        },
        "image",
    ),
    "donut_swin": (
        "DonutSwinConfig",
        {
            "image_size": 64,
            "embed_dim": 16,
            "depths": [2, 2],
            "num_heads": [2, 4],
            "window_size": 4,
        },
        "image",
    ),
    "regnet": ("RegNetConfig", {**SMALL_STAGES, "embedding_size": 16, "groups_width": 8}, "image"),
    "levit": ("LevitConfig", {"image_size": 64}, "image"),
    "efficientnet": (
        "EfficientNetConfig",
        {"width_coefficient": 0.5, "depth_coefficient": 0.3},
        "image",
    ),
    "vivit": ("VivitConfig", {**IMAGE, "num_frames": 4, "tubelet_size": [2, 16, 16]}, "video"),
    "ast": (
        "ASTConfig",
        {
            **{k: v for k, v in IMAGE.items() if k != "image_size"},
            "max_length": 64,
            "num_mel_bins": 32,
        },
        "spectrum",
    ),
}

SHAPES = {
    "tokens": (1, 12),
    "encoder": (1, 12),
    "speech": (1, 20, 64),
    "sound": (1, 1600),
    "image": (1, 3, 64, 64),
    "video": (1, 4, 3, 64, 64),
    "spectrum": (1, 64, 32),
}


class Only(nn.Module):
    """One tensor in, one tensor out; tokens come as numbers that are rounded to indices."""

    def __init__(self, model: nn.Module, tokens: int = 0) -> None:
        super().__init__()
        self.model, self.tokens = model, tokens

    def forward(self, x: Tensor) -> Tensor:
        """The first output."""
        output: Any = self.model((x.abs() * 20).long() % self.tokens if self.tokens else x)
        while not isinstance(output, Tensor):
            output = next(iter(output.values() if hasattr(output, "values") else output))
        return output


def create_transformer(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """The model with random weights, and the shape of its input."""
    import transformers

    kind, sizes, inputs = TRANSFORMERS[name]
    config = getattr(transformers, kind)(**sizes)
    if hasattr(config, "use_cache"):
        config.use_cache = False
    config._attn_implementation = "eager"
    model = transformers.AutoModel.from_config(config)
    if inputs in ("encoder", "speech"):
        model = model.get_encoder()
    model = Only(model.float(), sizes["vocab_size"] if inputs in ("tokens", "encoder") else 0)
    return model, SHAPES[inputs]
