"""Settings from outside: YAML without surprises, parts of files, the environment; light, for any verb and layer."""
