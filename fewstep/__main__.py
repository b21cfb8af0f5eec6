"""`python -m fewstep`: the command line without its script."""

from fewstep.command_line import main

if __name__ == "__main__":
    main()
