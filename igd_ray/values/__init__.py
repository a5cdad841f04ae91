"""How text becomes settings: values and their ranges, YAML without surprises, the environment."""
