"""The pages of a catalog, served on the loopback for one reader: runs, their reports and images, and SQL."""
