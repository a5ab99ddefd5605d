"""`python -m alpkit.cli`: the command line without its script."""

from alpkit.cli import main

if __name__ == "__main__":
    main()
