"""Samples of camera + radar training: one image warped, its radar painted, its targets drawn."""
