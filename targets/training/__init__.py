"""How targets, judges and the identity regressor are trained."""
