"""`python -m boxwright` is the same as `boxwright`."""

from boxwright.cli.main import entry_point

if __name__ == "__main__":
    entry_point()
