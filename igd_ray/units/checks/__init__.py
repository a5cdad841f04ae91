"""Units that check a defense, its noise and the points stored of its attacks; their findings are rows of `checks`."""
