"""The architectures of ``operators.py``, with the inputs that their users give them.

Random weights, few layers, small images. A name is ``library:model``; those of ``own`` are in
``operators_own.py``: what people write themselves.
"""

from __future__ import annotations

import contextlib
from typing import Any

import coverage_models
import torch
from coverage_transformers import TRANSFORMERS, create_transformer
from operators_network import IMAGE, Network
from operators_own import OWN
from torch import Tensor, nn

TIMM = """
    resnet10t convnext_zepto_rms convnext_atto deit_tiny_patch16_224 vit_tiny_patch16_224
    swin_tiny_patch4_window7_224 swinv2_tiny_window16_256 swinv2_cr_tiny_224 mobilevit_xxs
    mobilevitv2_050 efficientvit_b0 efficientvit_m0 coat_lite_tiny levit_128s maxvit_pico_rw_256
    mvitv2_tiny pvt_v2_b0 focalnet_tiny_srf edgenext_xx_small poolformerv2_s12 crossvit_9_240
    sequencer2d_s halonet26t lambda_resnet26t botnet26t_256 volo_d1_224 xcit_nano_12_p8_224
    gmlp_ti16_224 convmixer_768_32 hiera_tiny_224 efficientformerv2_s0 mobilenetv3_small_050
    ghostnet_050 tiny_vit_5m_224 beit_base_patch16_224 samvit_base_patch16_224
    eva02_tiny_patch14_224 davit_tiny twins_svt_small nest_tiny
"""
TORCHVISION = """
    resnet18 densenet121 googlenet shufflenet_v2_x0_5 mobilenet_v3_small efficientnet_b0
    regnet_x_400mf convnext_tiny vit swin_t swin_v2_t r3d_18 r2plus1d_18 swin3d_t
    lraspp_mobilenet_v3_large deeplabv3_mobilenet_v3_large fcn_resnet50 inception_v3
"""
DETECTORS = ("ssdlite320_mobilenet_v3_large", "retinanet_resnet50_fpn", "fcos_resnet50_fpn")
MASKED = ("tokens", "encoder")  # inputs that come with an attention mask


def names() -> list[str]:
    """Every network, in the order to run."""
    return [
        *(f"own:{name}" for name in OWN),
        *(f"transformers:{name}" for name in (*TRANSFORMERS, *MORE)),
        *(f"timm:{name}" for name in TIMM.split()),
        *(f"torchvision:{name}" for name in (*TORCHVISION.split(), *DETECTORS)),
    ]


def create(name: str, attention: str) -> Network:
    """The network, in eval mode; ``attention`` is how transformers computes it."""
    torch.manual_seed(0)
    with contextlib.suppress(ImportError, RuntimeError):
        import torchvision

        # its compiled operators are there: no stub of them is needed
        coverage_models.stub_torchvision.library = torchvision  # type: ignore[attr-defined]
    library, model = name.split(":")
    if library == "own":
        network = OWN[model]()
    elif library == "transformers":
        network = _transformer(model, attention)
    elif model in DETECTORS:
        import torchvision

        made = torchvision.models.get_model(model, weights=None, weights_backbone=None)
        network = Network(_Detections(made), (torch.rand(3, 64, 64),), ("image",))
    else:
        made, shape = coverage_models.create(name)
        network = Network(made, (torch.randn(shape),), ("input",))
    network.module.eval()
    return network


class _Outputs(nn.Module):
    """The tensors that a model of transformers returns, as a tuple."""

    def __init__(self, model: nn.Module, names: tuple[str, ...], wanted: int) -> None:
        super().__init__()
        self.model, self.names, self.wanted = model, names, wanted

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        output = self.model(**dict(zip(self.names, inputs, strict=True)))
        tensors = [value for value in output.values() if isinstance(value, Tensor)]
        return tuple(tensors[: self.wanted])


class _Detections(nn.Module):
    """torchvision's detectors take a list of images and return a list of dictionaries."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        (result,) = self.model([image])
        return tuple(result.values())


# -- transformers ----------------------------------------------------------------------------------

RESNET: dict[str, Any] = {
    "hidden_sizes": [16, 32, 48, 64],
    "depths": [1, 1, 1, 1],
    "embedding_size": 16,
    "layer_type": "basic",
}
DETECTOR: dict[str, Any] = {
    "d_model": 48,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "num_queries": 10,
}


def _resnet() -> Any:
    import transformers

    return transformers.ResNetConfig(
        **RESNET, out_features=["stage2", "stage3", "stage4"], num_labels=2
    )


# name -> class of the configuration, of the model, sizes, outputs
MORE: dict[str, tuple[str, str, dict[str, Any], int]] = {
    "detr": (
        "DetrConfig",
        "DetrForObjectDetection",
        {**DETECTOR, "use_timm_backbone": False, "use_pretrained_backbone": False,
         "backbone": None},
        2,
    ),
    "rt_detr": (
        "RTDetrConfig",
        "RTDetrForObjectDetection",
        {
            "d_model": 32, "encoder_hidden_dim": 32, "encoder_ffn_dim": 32, "decoder_layers": 1,
            "decoder_ffn_dim": 32, "num_queries": 10, "encoder_in_channels": [32, 48, 64],
            "decoder_in_channels": [32, 32, 32], "decoder_attention_heads": 4,
            "encoder_attention_heads": 4, "anchor_image_size": None,
        },
        2,
    ),
    "yolos": (
        "YolosConfig",
        "YolosForObjectDetection",
        {"image_size": [64, 64], "hidden_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "intermediate_size": 80, "num_detection_tokens": 5},
        2,
    ),
    "depth_anything": ("DPTConfig", "DPTForDepthEstimation", {
        "image_size": 64, "hidden_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
        "intermediate_size": 80, "backbone_out_indices": [0, 1, 2, 3],
        "neck_hidden_sizes": [16, 16, 32, 32], "fusion_hidden_size": 16, "is_hybrid": False,
    }, 1),
}  # fmt: skip


def _transformer(name: str, attention: str) -> Network:
    if name in MORE:
        return _configured(name, attention)
    kind = TRANSFORMERS[name][2]
    only, shape = create_transformer(name)
    model = only.model
    config = model.config
    config._attn_implementation = attention
    key = {"image": "pixel_values", "video": "pixel_values", "tokens": "input_ids"}
    first = key.get(kind, "input_ids" if kind == "encoder" else "input_values")
    if kind == "speech":
        first = "input_features"
    given: dict[str, Tensor] = {first: torch.randn(shape)}
    if kind in MASKED:
        tokens = torch.randint(2, TRANSFORMERS[name][1]["vocab_size"], shape)
        given = {"input_ids": tokens}
        if name not in ("fnet",):
            given["attention_mask"] = torch.ones_like(tokens)
    names = tuple(given)
    return Network(_Outputs(model, names, 1), tuple(given.values()), names)


def _configured(name: str, attention: str) -> Network:
    import transformers

    configuration, kind, sizes, wanted = MORE[name]
    if name in ("detr", "rt_detr"):
        sizes = {**sizes, "backbone_config": _resnet()}
    config = getattr(transformers, configuration)(**sizes)
    config._attn_implementation = attention
    model = getattr(transformers, kind)(config)
    names = ("pixel_values",)
    return Network(_Outputs(model, names, wanted), (torch.randn(IMAGE),), names)


# -- networks of our own ---------------------------------------------------------------------------
