"""Tools for the logs of runs: python -m records COMMAND. They read text; nothing in a log is executed."""
import argparse
import sys

from records import extract, plot
from records.reader import ReadError

COMMANDS = {
    "extract": (extract, "write the code that a log carries into an empty folder",
                "python -m records extract records/runs/20261122T065801Z_8737935f_b151bd.txt /tmp/run"),
    "plot": (plot, "draw the losses of one or several runs",
             "python -m records plot records/runs/*.txt -o losses.png --x time --ladder"),
}


def main(argv: list[str] | None = None) -> int:
    """Run a command line; return the exit code: 0 holds, 1 does not hold, 2 could not tell."""
    parser = argparse.ArgumentParser(prog="python -m records", description=__doc__,
                                     epilog="example: python -m records plot --help")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, does, example) in COMMANDS.items():
        command = commands.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.",
                                      formatter_class=argparse.RawDescriptionHelpFormatter,
                                      epilog=f"example: {example}")
        module.add_arguments(command)
    arguments = parser.parse_args(argv)
    try:
        return COMMANDS[arguments.command][0].main(arguments)
    except ReadError as error:
        print(f"records {arguments.command}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
