"""Every weight file that is read or written. What is not here: what training puts into a checkpoint (engine)."""
