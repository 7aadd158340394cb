"""What each built-in group of metrics yields, so that a protocol can be checked before anything is computed."""

from __future__ import annotations

_PRDC = ("precision", "recall", "density", "coverage")
_CONTROLS = ("acc1", "knn_distance", "true_identity_error")

ESTIMATES: dict[str, tuple[str, ...]] = {
    "accuracy": ("acc1", "acc5", "acc1_all", "target_acc1", "target_confidence"),
    "accuracy-legacy": ("acc1_std_legacy", "acc1_std_draws"),
    "knn-distance": ("knn_distance",),
    "feature-distance": ("feature_distance",),
    "centre-distance": ("centre_distance",),
    "prdc": _PRDC,
    "prdc-ppa-legacy": tuple(f"{name}_ppa_legacy" for name in _PRDC),
    "diversity": ("div_feat", "div_feat_ratio"),
    "frechet-judge": ("frechet_judge",),
    "fid": ("fid",),
    "fid-ppa-legacy": ("fid_ppa_legacy",),
    "fid-success-only": ("fid_success_only",),
    "true-identity": ("true_identity_error", "true_identity_rank", "true_identity_top1"),
    "controls": tuple(f"control_{who}_{name}" for who in ("nearest_public", "private_test") for name in _CONTROLS),
}
