"""The defender: target classifiers, defences, the judges that only the referee loads, and how they are trained."""

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
SMALL = ("vgg16", "ir152", "facenet64")  # the networks of the 64-pixel protocols
CATALOGUE: dict[str, dict[str, str]] = {
    "target": {
        "vgg16": "mibench.targets.networks.vgg16:VGG16",
        "ir152": "mibench.targets.networks.ir152:IR152",
        "facenet64": "mibench.targets.networks.facenet64:FaceNet64",
        "vgg16_mid": "mibench.targets.networks.vgg16_mid:VGG16MID",
        "ir152_mid": "mibench.targets.networks.ir_mid:IR152MID",
        "facenet64_mid": "mibench.targets.networks.ir_mid:FaceNet64MID",
        "vgg16_gn": "mibench.targets.networks.group_norm:VGG16GN",
        "ir152_gn": "mibench.targets.networks.group_norm:IR152GN",
        "facenet64_gn": "mibench.targets.networks.group_norm:FaceNet64GN",
        **{name: f"mibench.targets.networks.torchvision_networks:{constant}" for name, constant in LARGE.items()},
        "timm": "mibench.targets.networks.timm_networks:TIMM",
        "module": "mibench.targets.custom.module:ModuleNetwork",
        "onnx": "mibench.targets.custom.onnx:OnnxNetwork",
        "torchscript": "mibench.targets.custom.torchscript:TorchScriptNetwork",
    },
    "judge": {
        "facenet112": "mibench.targets.judges.facenet112:FaceNet112",
        "inception_v3": "mibench.targets.judges.inception_v3:INCEPTION_V3",
    },
    "regressor": {"identity": "mibench.targets.judges.identity_regressor:IdentityRegressor"},
    "recipe": {
        "target": "mibench.targets.training.recipes:TrainTarget",
        "judge": "mibench.targets.training.recipes:TrainJudge",
        "regressor": "mibench.targets.training.identity_regressor:TrainRegressor",
        **{f"target:{name}": "mibench.targets.training.torchvision_recipe:TrainLargeTarget" for name in LARGE},
        "target:timm": "mibench.targets.training.torchvision_recipe:TrainTimmTarget",
        "judge:inception_v3": "mibench.targets.training.torchvision_recipe:TrainLargeJudge",
        **{f"backbone:{name}": "mibench.targets.training.public_people:TrainBackbone" for name in SMALL},
    },
    "backbone": {name: f"mibench.targets.networks.torchvision_networks:{constant}" for name, constant in LARGE.items()}
    | {
        "inception_v3": "mibench.targets.judges.inception_v3:INCEPTION_V3",
        "facenet64": "mibench.targets.training.backbones:IR50Backbone",
        "ir50": "mibench.targets.training.backbones:IR50Backbone",
        "ir152": "mibench.targets.training.backbones:IR152Backbone",
        "vgg16": "mibench.targets.training.backbones:VGG16Backbone",
        "vgg16_bn": "mibench.targets.training.backbones:VGG16BN",
    },
    "importer": {
        "target": "mibench.targets.importing.released:import_classifier",
        "judge": "mibench.targets.importing.released:import_classifier",
        "backbone": "mibench.targets.importing.released:import_backbone",
        **{f"target:{name}": "mibench.targets.importing.torchvision:import_target" for name in LARGE},
        **{
            f"backbone:{name}": "mibench.targets.importing.torchvision:import_backbone"
            for name in (*LARGE, "inception_v3")
        },
        "target:timm": "mibench.targets.importing.torchvision:import_timm",
        "judge:inception_v3": "mibench.targets.importing.torchvision:import_inception",
        "target:module": "mibench.targets.custom.importing:import_module",
        "target:onnx": "mibench.targets.custom.importing:import_onnx",
        "target:torchscript": "mibench.targets.custom.importing:import_torchscript",
    },
    "defence": {
        "none": "mibench.targets.defences.none:NoDefence",
        "ls": "mibench.targets.defences.label_smoothing:LabelSmoothing",
        "negls": "mibench.targets.defences.label_smoothing:NegativeLabelSmoothing",
        "dp-sgd": "mibench.targets.defences.dp_sgd:DPSGD",
        "midre": "mibench.targets.defences.random_erasing:RandomErasing",
        "mid": "mibench.targets.defences.mid:MID",
        "bido": "mibench.targets.defences.bido:BiDO",
        "rolss": "mibench.targets.defences.removed_shortcuts:RemovedShortcuts",
        "trap-mid": "mibench.targets.defences.trap_mid:TrapMID",
        "at-at": "mibench.targets.defences.anti_adversarial:AntiAdversarial",
        "tl-dmi": "mibench.targets.defences.transfer_learning:TransferLearning",
        "distillation": "mibench.targets.defences.distillation:Distillation",
        "temperature": "mibench.targets.defences.answer_filters:Temperature",
        "noise": "mibench.targets.defences.answer_filters:Noise",
        "top-k": "mibench.targets.defences.answer_filters:TopK",
        "rounding": "mibench.targets.defences.answer_filters:Rounding",
        "label-only": "mibench.targets.defences.answer_filters:LabelOnly",
        "purifier": "mibench.targets.defences.purifier:Purifier",
        "inversion-noise": "mibench.targets.defences.inversion_noise:InversionNoise",
    },
    "cards": {"targets": "mibench.targets.cards"},
    "role": {"default_target": "vgg16", "default_judge": "facenet112"},
}
