"""The whole road in minutes, with no download and no GPU."""
