"""The adversary: attacks, generative priors and how they are trained.

A new attack is a file in this folder, a line of ``CATALOGUE`` and a file ``presets/NAME.yaml``. The catalogue holds
names only: nothing is imported before it is asked for.
"""

CATALOGUE: dict[str, dict[str, str]] = {
    "attack": {
        "brep": "mibench.attacks.brep:BREP",
        "c2fmi": "mibench.attacks.c2fmi:C2FMI",
        "ceiling": "mibench.attacks.ceiling:Ceiling",
        "consensus": "mibench.attacks.consensus:Consensus",
        "deepinversion": "mibench.attacks.deepinversion:DeepInversion",
        "dmmia": "mibench.attacks.dmmia:DMMIA",
        "floor": "mibench.attacks.floor:Floor",
        "gmi": "mibench.attacks.gmi:GMI",
        "if-gmi": "mibench.attacks.if_gmi:IFGMI",
        "kedmi": "mibench.attacks.kedmi:KEDMI",
        "lokt-pool": "mibench.attacks.lokt_pool:LOKTPool",
        "lomma-gmi": "mibench.attacks.lomma_gmi:LommaGMI",
        "lomma-kedmi": "mibench.attacks.lomma_kedmi:LommaKEDMI",
        "miface": "mibench.attacks.miface:MIFace",
        "mirror-b": "mibench.attacks.mirror_b:MirrorBlack",
        "mirror-w": "mibench.attacks.mirror_w:MirrorWhite",
        "plgmi": "mibench.attacks.plgmi:PLGMI",
        "ppa": "mibench.attacks.ppa:PPA",
        "ppdg": "mibench.attacks.ppdg:PPDG",
        "rlb": "mibench.attacks.rlb:RLB",
        "smile": "mibench.attacks.smile:SMILE",
        "vmi": "mibench.attacks.vmi:VMI",
    },
    "prior": {
        "stylegan2": "mibench.attacks.priors.stylegan2.prior:StyleGAN2Prior",
        "gmi": "mibench.attacks.priors.dcgan.prior:GMIPrior",
        "kedmi": "mibench.attacks.priors.dcgan.prior:KEDMIPrior",
        "plgmi": "mibench.attacks.priors.plgmi.prior:PLGMIPrior",
    },
    "recipe": {
        "prior:stylegan2": "mibench.attacks.priors.stylegan2.training:TrainStyleGAN2",
        "prior:gmi": "mibench.attacks.priors.dcgan.training:TrainGMI",
        "prior:kedmi": "mibench.attacks.priors.dcgan.training:TrainKEDMI",
        "prior:plgmi": "mibench.attacks.priors.plgmi.training:TrainPLGMI",
    },
    "importer": {
        "prior:gmi": "mibench.attacks.priors.dcgan.importing:import_gan",
        "prior:kedmi": "mibench.attacks.priors.dcgan.importing:import_gan",
        "prior:stylegan2": "mibench.attacks.priors.stylegan2.importing:import_stylegan2",
    },
    "counterpart": {"mirror-b": "mirror-w"},  # what the black box does with gradients, all else equal
    "cards": {"priors": "mibench.attacks.cards"},
    "role": {
        "baseline": "floor",  # what every run is compared with
        "strongest": "ppa",  # at gradients, by docs/claims.md
        "strongest_by_scores": "mirror-b",  # without, by docs/mirror.md
        "default_attack": "dmmia",
        "default_prior": "gmi",  # of an audit whose attack needs no mapping network
        "default_mapping_prior": "stylegan2",  # of one that does
    },
}
