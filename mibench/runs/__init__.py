"""A run: the request, the plan it is resolved into, the attack, the score, and the directory that holds them."""
