"""What one's own model leaks, in one command: existing parts in a row, each stored and found again.

``request`` is what a person says, ``material`` the data, ``model`` the attacked model as a card, ``sanity`` whether it
works at all on these images, ``parts`` the judge and the prior, ``conduct`` the order of it, ``verdict`` what it means.
"""
