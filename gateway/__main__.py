"""Makes `python -m gateway` the same as `gateway`; the command line itself is `cli.py`."""

from gateway.cli import main

if __name__ == "__main__":
    main()
