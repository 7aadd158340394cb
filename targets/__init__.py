"""The defender: target classifiers, the judges that only the referee loads, and how they are trained."""

from __future__ import annotations

LARGE = {  # torchvision's name -> ours in the module of its networks
    "resnet18": "RESNET18",
    "resnet34": "RESNET34",
    "resnet50": "RESNET50",
    "resnet101": "RESNET101",
    "resnet152": "RESNET152",
    "resnext50_32x4d": "RESNEXT50",
    "resnext101_32x8d": "RESNEXT101",
    "densenet121": "DENSENET121",
    "densenet161": "DENSENET161",
    "densenet169": "DENSENET169",
    "densenet201": "DENSENET201",
    "vit_b_16": "VIT_B_16",
}
CATALOGUE: dict[str, dict[str, str]] = {
    "target": {
        "vgg16": "mibench.targets.vgg16:VGG16",
        "ir152": "mibench.targets.ir152:IR152",
        "facenet64": "mibench.targets.facenet64:FaceNet64",
        "vgg16_mid": "mibench.targets.vgg16_mid:VGG16MID",
        **{name: f"mibench.targets.torchvision_networks:{constant}" for name, constant in LARGE.items()},
        "timm": "mibench.targets.timm_networks:TIMM",
        "module": "mibench.targets.own.module:ModuleNetwork",
        "onnx": "mibench.targets.own.onnx:OnnxNetwork",
        "torchscript": "mibench.targets.own.torchscript:TorchScriptNetwork",
    },
    "judge": {
        "facenet112": "mibench.targets.judges.facenet112:FaceNet112",
        "inception_v3": "mibench.targets.judges.inception_v3:INCEPTION_V3",
    },
    "regressor": {"identity": "mibench.targets.judges.identity_regressor:IdentityRegressor"},
    "recipe": {
        "target": "mibench.targets.training:TrainTarget",
        "judge": "mibench.targets.training:TrainJudge",
        "regressor": "mibench.targets.regression:TrainRegressor",
        **{f"target:{name}": "mibench.targets.large_training:TrainLargeTarget" for name in LARGE},
        "target:timm": "mibench.targets.large_training:TrainTimmTarget",
        "judge:inception_v3": "mibench.targets.large_training:TrainLargeJudge",
    },
    "backbone": {name: f"mibench.targets.torchvision_networks:{constant}" for name, constant in LARGE.items()}
    | {
        "inception_v3": "mibench.targets.judges.inception_v3:INCEPTION_V3",
        "ir50": "mibench.targets.backbones:IR50Backbone",
        "ir152": "mibench.targets.backbones:IR152Backbone",
        "vgg16_bn": "mibench.targets.backbones:VGG16BN",
    },
    "importer": {
        "target": "mibench.targets.importing:import_classifier",
        "judge": "mibench.targets.importing:import_classifier",
        "backbone": "mibench.targets.importing:import_backbone",
        **{f"target:{name}": "mibench.targets.large_importing:import_target" for name in LARGE},
        **{f"backbone:{name}": "mibench.targets.large_importing:import_backbone" for name in (*LARGE, "inception_v3")},
        "target:timm": "mibench.targets.large_importing:import_timm",
        "judge:inception_v3": "mibench.targets.large_importing:import_inception",
        "target:module": "mibench.targets.own.importing:import_module",
        "target:onnx": "mibench.targets.own.importing:import_onnx",
        "target:torchscript": "mibench.targets.own.importing:import_torchscript",
    },
    "cards": {"targets": "mibench.targets.cards"},
}
