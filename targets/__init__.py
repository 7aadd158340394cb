"""The defender: target classifiers, the judges that only the referee loads, and how they are trained."""

from __future__ import annotations

CATALOGUE: dict[str, dict[str, str]] = {
    "target": {
        "vgg16": "mibench.targets.vgg16:VGG16",
        "ir152": "mibench.targets.ir152:IR152",
        "facenet64": "mibench.targets.facenet64:FaceNet64",
        "module": "mibench.targets.own.module:ModuleNetwork",
        "onnx": "mibench.targets.own.onnx:OnnxNetwork",
        "torchscript": "mibench.targets.own.torchscript:TorchScriptNetwork",
    },
    "judge": {"facenet112": "mibench.targets.judges.facenet112:FaceNet112"},
    "regressor": {"identity": "mibench.targets.judges.identity_regressor:IdentityRegressor"},
    "recipe": {
        "target": "mibench.targets.training:TrainTarget",
        "judge": "mibench.targets.training:TrainJudge",
        "regressor": "mibench.targets.regression:TrainRegressor",
    },
    "importer": {
        "target:module": "mibench.targets.own.importing:import_module",
        "target:onnx": "mibench.targets.own.importing:import_onnx",
        "target:torchscript": "mibench.targets.own.importing:import_torchscript",
    },
    "cards": {"targets": "mibench.targets.cards"},
}
