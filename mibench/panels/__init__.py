"""``mibench verdicts``: what people or multimodal models say of reconstructions, asked blindly, beside the judge.

Nothing here calls a service: panels are files, and answers come back as a file.
"""
