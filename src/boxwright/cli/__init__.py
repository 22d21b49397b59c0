"""The command line: argv to one library call a verb. No logic, and no heavy import before a verb runs."""
