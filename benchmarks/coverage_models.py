"""The architectures of ``coverage.py``: timm, torchvision and transformers, random weights.

A name is ``library:model``. The lists hold small models of every family, the smallest of each
first; those of transformers are in ``coverage_transformers.py``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from coverage_transformers import TRANSFORMERS, Only, create_transformer
from torch import Tensor, nn

TIMM_TESTS = """
    test_byobnet test_convnext test_convnext2 test_convnext3 test_efficientnet
    test_efficientnet_evos test_efficientnet_gn test_efficientnet_ln test_mambaout
    test_coatnet test_maxvit test_nfnet test_resnet test_vit test_vit2 test_vit3 test_vit4
    test_vit_relpos
"""

TIMM_SMALLEST = """
    mobileone_s1 cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32
    convnext_zepto_rms cpubone_nano crossvit_tiny_240 csatv2 cs3darknet_focus_s cspnext_tiny
    davit_tiny deit_tiny_patch16_224 densenet121 dla46x_c dpn48b edgenext_xx_small
    efficientformer_l1 efficientformerv2_s0 mobilenetv2_035 efficientvim_m1 efficientvit_b0
    efficientvit_m0 vit_tiny_patch16_dinov3_qkvb fasternet_t0 fastvit_t8 focalnet_tiny_srf
    gcvit_xxtiny ghostnet_050 hardcorenas_b hgnetv2_b0 hiera_tiny_224 sam2_hiera_tiny
    hrnet_w18_small iformer_t inception_next_atto inception_v3 lcnetv2_small levit_128s
    lowformer_b0 mambaout_femto maxvit_pico_rw_256 poolformerv2_s12 gmlp_ti16_224
    mobilenetv3_small_050 mobilevit_xxs mvitv2_tiny nf_regnet_b0 pit_ti_224 pvt_v2_b0
    rdnet_tiny regnetx_002 repghostnet_050 repvit_m1 res2next50 resnest14d resnet10t
    resnetv2_18 rexnet_100 legacy_seresnet18 sequencer2d_s shvit_s1 skresnet18 starnet_s050
    swiftformer_xs swin_tiny_patch4_window7_224 swinv2_tiny_window16_256 swinv2_cr_tiny_224
    tiny_vit_5m_224 tnt_s_legacy_patch16_224 twins_svt_small visformer_tiny
    vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 vit_srelpos_small_patch16_224
    vitamin_small_224 volo_d1_224 ese_vovnet19b_slim_dw legacy_xception xception41p
    xcit_nano_12_p8_224 nest_tiny
"""

TIMM_MORE = """
    eca_botnext26ts_256 mobileone_s0 cait_xxs36_224 coat_lite_tiny convit_small
    convnext_atto_rms cpubone_t0 crossvit_9_240 csatv2_21m cs3darknet_focus_m cspnext_s
    deit_tiny_distilled_patch16_224 densenetblur121d dla46_c dpn68 edgenext_x_small
    efficientformerv2_s1 mobilenetv2_050 efficientvim_m1_dist efficientvit_b1
    efficientvit_m1 eva02_tiny_patch14_224 fasternet_t1 fastvit_t12 focalnet_tiny_lrf
    gcvit_xtiny ghostnetv3_050 hardcorenas_a hgnetv2_b1 hrnet_w18_small_v2 iformer_s
    inception_next_tiny lcnetv2_base levit_256d lowformer_b1 mambaout_kobe
    maxvit_rmlp_pico_rw_256 poolformer_s12 gmixer_12_224 lcnet_035 mobilevitv2_050
    nf_regnet_b1 pit_ti_distilled_224 pvt_v2_b1 regnety_002 repghostnet_058 repvit_m1_0
    res2net50_14w_8s resnest26d resnet14t resnetv2_18d rexnetr_100 legacy_seresnext26_32x4d
    shvit_s2 skresnet34 starnet_s100 swiftformer_s swin_s3_tiny_224 tiny_vit_11m_224
    tnt_s_patch16_224 twins_pcpvt_small vit_xsmall_patch16_clip_224
    vit_relpos_small_patch16_224 ese_vovnet19b_slim xception41 xcit_tiny_12_p8_224
    eca_halonext26ts gernet_s coat_mini convnextv2_atto cpubone_s0 crossvit_9_dagger_240
    darknet17 cspnext_m deit_small_patch16_224 densenet169 dla60x_c edgenext_small
    efficientformerv2_s2 mnasnet_small efficientvim_m2 efficientvit_b2 efficientvit_m2
    vit_small_patch16_dinov3 fasternet_t2 fastvit_s12 gcvit_tiny ghostnet_100 hardcorenas_c
    hgnetv2_b2 hrnet_w18_ssld iformer_m levit_128 lowformer_e1 mambaout_tiny
    coatnet_pico_rw_224 poolformerv2_s24 resmlp_12_224 lcnet_050 mobilevit_xs eca_nfnet_l0
    pit_xs_224 pvt_v2_b2_li regnety_004 repghostnet_080 repvit_m2 res2net50_48w_2s
    resnest50d_1s4x24d resnet18 resnetv2_34 rexnet_130 legacy_seresnet34 shvit_s3 skresnet50
    starnet_s150 swiftformer_l1 flexivit_small ese_vovnet19b_dw xcit_tiny_24_p8_224
    repvgg_a0 convnextv2_femto tinynet_e coatnet_nano_cc_224 mobilenetv4_conv_small_035
    regnetx_004 resnet18d regnetz_b16 semnasnet_050 coatnext_nano_rw_224
    mobilenetv3_small_075 regnetz_005 seresnet18 regnetz_b16_evos mnasnet_050
    maxxvit_rmlp_nano_rw_256 mobilenetv4_conv_small_050 regnetv_040 ecaresnext26t_32x4d
    resnext26ts tinynet_d maxxvitv2_nano_rw_256 tf_mobilenetv3_small_100 regnetz_040
    resnet26 seresnext26ts semnasnet_075 maxxvit_rmlp_tiny_rw_256 fbnetv3_b resnet26t
"""
# Families whose smallest model is large: the same code, fewer and narrower blocks.
TIMM_REDUCED: dict[str, dict[str, Any]] = {
    "beit_base_patch16_224": {"depth": 2, "embed_dim": 96, "num_heads": 4},
    "beitv2_base_patch16_224": {"depth": 2, "embed_dim": 96, "num_heads": 4},
    "vit_base_patch16_siglip_gap_224": {"depth": 2, "embed_dim": 96, "num_heads": 4},
    "samvit_base_patch16_224": {
        "depth": 2,
        "embed_dim": 96,
        "num_heads": 4,
        "global_attn_indexes": (1,),
    },
    "vit_base_patch16_siglip_gap_256": {"depth": 2, "embed_dim": 96, "num_heads": 4},
    "nextvit_small": {"depths": (1, 1, 2, 1)},
    "selecsls42b": {},
    "tresnet_m": {},
    "inception_v4": {},
}

# Fewer blocks of each kind, by module, where the model takes such an option.
TIMM_SHALLOW: dict[str, dict[str, Any]] = {
    **{
        module: {"depth": 3}
        for module in (
            *("beit", "cait", "convit", "convmixer", "deit", "eva", "tnt", "vision_transformer"),
            *("vision_transformer_hybrid", "vision_transformer_relpos", "xcit"),
        )
    },
    "mlp_mixer": {"num_blocks": 3},
    "crossvit": {"depth": ((1, 2, 0), (1, 2, 0), (1, 2, 0))},
    "coat": {"serial_depths": (1, 1, 1, 1)},
    **{
        module: {"depths": (1, 1, 2, 1)}
        for module in (
            *("davit", "edgenext", "efficientformer", "focalnet", "gcvit", "inception_next"),
            *("mvitv2", "pvt_v2", "twins", "nextvit", "convnext"),
        )
    },
    **{
        module: {"depths": (2, 2, 2, 2)}
        for module in ("swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr")
    },
    "hiera": {"stages": (1, 1, 2, 1)},
    "sequencer": {"layers": (1, 1, 2, 1)},
    "metaformer": {"depths": (1, 1, 2, 1)},
}

TORCHVISION = """
    squeezenet1_1 resnet18 densenet121 googlenet inception_v3 shufflenet_v2_x0_5
    mobilenet_v2 mobilenet_v3_small mnasnet0_5 efficientnet_b0 regnet_x_400mf regnet_y_400mf
    convnext_tiny vit swin_t swin_v2_t maxvit_t r3d_18 mc3_18 r2plus1d_18 s3d swin3d_t
    lraspp_mobilenet_v3_large deeplabv3_mobilenet_v3_large fcn_resnet50 resnext50_32x4d
    shufflenet_v2_x1_0 mobilenet_v3_large
"""
VIDEO = ("r3d_18", "mc3_18", "r2plus1d_18", "s3d", "swin3d_t")


def families() -> dict[str, str]:
    """Every model in the order to run, and its family."""
    timm = stub_torchvision_timm()
    known: dict[str, str] = {}
    for name in (*TIMM_TESTS.split(), *TIMM_SMALLEST.split(), *TIMM_REDUCED):
        known[f"timm:{name}"] = timm(name)
    known |= {f"transformers:{name}": f"transformers {name}" for name in TRANSFORMERS}
    known |= {f"torchvision:{name}": f"torchvision {_stem(name)}" for name in TORCHVISION.split()}
    known |= {f"timm:{name}": timm(name) for name in TIMM_MORE.split()}
    return known


def _stem(name: str) -> str:
    return name.rstrip("0123456789_").split("_")[0].rstrip("0123456789")


def stub_torchvision() -> None:
    """torchvision's wheel looks for its compiled operators; these two are all it asks for."""
    if not hasattr(stub_torchvision, "library"):
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        stub_torchvision.library = library  # type: ignore[attr-defined]


def stub_torchvision_timm() -> Callable[[str], str]:
    """timm's name of the module that defines a model."""
    stub_torchvision()
    import timm

    return lambda name: f"timm {timm.model_entrypoint(name).__module__.split('.')[-1]}"


def create(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """The model with random weights, and the smallest of a few input shapes that it runs on."""
    stub_torchvision()
    library, model = name.split(":")
    torch.manual_seed(0)
    if library == "transformers":
        model_and_shape = create_transformer(model)
        if (reason := refuses(*model_and_shape)) is not None:
            raise ValueError(f"cannot run {name}: {reason}")
        return model_and_shape
    if library == "torchvision":
        return _torchvision(model)
    return _timm(model)


def _timm(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    import timm

    module = timm.model_entrypoint(name).__module__.split(".")[-1]
    shallow = {} if name.startswith("test_") else TIMM_SHALLOW.get(module, {})
    own = TIMM_REDUCED.get(name, {})
    reasons = []
    for reduced in (shallow | own, own):
        for size in (64, 96, 128, 0):
            for given in (reduced | {"img_size": size}, reduced) if size else (reduced,):
                try:
                    model = timm.create_model(name, pretrained=False, **given)
                except Exception as error:
                    reasons.append(str(error))
                    continue
                shape = (1, 3, size, size) if size else (1, *model.default_cfg["input_size"])
                if (reason := refuses(model, shape)) is None:
                    return model, shape
                reasons.append(reason)
    raise ValueError(f"cannot run {name}: {reasons[-1]}")


def _torchvision(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    import torchvision

    if name == "vit":
        vit = torchvision.models.VisionTransformer(64, 16, 2, 4, 48, 96)
        return vit, (1, 3, 64, 64)
    options: dict[str, Any] = {"weights": None}
    if name in ("googlenet", "inception_v3"):
        options |= {"aux_logits": False, "init_weights": False}
    if (
        "weights_backbone"
        in inspect.signature(torchvision.models.get_model_builder(name)).parameters
    ):
        options["weights_backbone"] = None
    model = Only(torchvision.models.get_model(name, **options))
    shapes = [(1, 3, s, s) for s in (64, 96, 128, 224)]
    if name in VIDEO:
        shapes = [(1, 3, 8, s, s) for s in (64, 112)] + [(1, 3, 16, s, s) for s in (64, 112, 224)]
    reason: str | None = None
    for shape in shapes:
        if (reason := refuses(model, shape)) is None:
            return model, shape
    raise ValueError(f"cannot run {name}: {reason}")


def refuses(model: nn.Module, shape: tuple[int, ...]) -> str | None:
    """Why the model does not run on two inputs of this shape; None if it does."""
    try:
        with torch.no_grad():
            model.eval()(torch.zeros(2, *shape[1:]))
    except Exception as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0]
    return None


def randomise(model: nn.Module, seed: int) -> None:
    """Statistics, scales and shifts as training leaves them: none at 0 or 1, no weight at zero."""
    random = torch.Generator().manual_seed(seed)

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        tensor.copy_(torch.rand(tensor.shape, generator=random) * (high - low) + low)

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim < 2 or parameter.numel() == max(parameter.shape):
                scale = name.endswith(("weight", "gamma", "scale", "gain", "alpha", "ls1", "ls2"))
                uniform(parameter, *((0.5, 1.5) if scale else (-0.2, 0.2)))
            elif not parameter.any() or (parameter == parameter.flatten()[0]).all():
                uniform(parameter, -0.2, 0.2)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                uniform(buffer, -0.2, 0.2)
            elif name.endswith("running_var"):
                uniform(buffer, 0.5, 1.5)
