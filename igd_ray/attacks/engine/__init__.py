"""The attack engine: attacks whose images are searched each for itself, however they are batched."""
