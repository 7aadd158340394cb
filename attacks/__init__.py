"""The adversary: attacks, generative priors, how they are trained. Names only: nothing is imported until asked for."""

CATALOGUE: dict[str, dict[str, str]] = {
    "attack": {
        "dmmia": "mibench.attacks.dmmia:DMMIA",
        "floor": "mibench.attacks.floor:Floor",
    },
    "prior": {"stylegan2": "mibench.attacks.priors.stylegan2:StyleGAN2Prior"},
    "recipe": {"prior:stylegan2": "mibench.attacks.priors.training:TrainStyleGAN2"},
    "cards": {"priors": "mibench.attacks.priors.cards"},
}
