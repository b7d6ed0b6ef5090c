"""The start, backups, restores, and the check of the whole data folder."""
