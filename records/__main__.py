"""Tools for the logs of runs: python -m records COMMAND. Those of tools/again/ execute what logs hold."""
import argparse
import importlib
import io
import os
import sys
from typing import NoReturn

from records.tools.read.values import ReadError


# command: what it does, an example, the module of records.tools that holds main and ARGUMENTS, the latter
# name -> options of argparse, or the help of a switch
COMMANDS = {
    "verify": ("check what logs or a record claim",
               "python -m records verify records/sample/2026-11-22_Muon", "publish.verify"),
    "diff": ("compare two logs or records: code, settings, environment, curves, verdict",
             "python -m records diff -2 -1 --stat", "show.diff"),
    "race": ("run submissions in turns on this host and test which is faster",
             "python -m records race records/sample/2026-11-22_Muon train_gpt2.py -n 8", "again.race"),
    "submit": ("make a record of logs: its folder, record.json and page",
               "python -m records submit records/runs/*.txt --name Muon", "publish.submit"),
    "list": ("list runs: status, track, loss, time, seed, code, overrides",
             "python -m records list records/runs --json",
             "show.listing"),
    "show": ("show one run whole", "python -m records show -1", "show.show"),
    "stats": ("test the losses of runs against a target or against other runs",
              "python -m records stats records/runs/*.txt --target 3.28", "show.stats"),
    "plan": ("tell how many runs a claim needs, or after how few steps that of some logs could be proven",
             "python -m records plan --buffer 0.001 --sigma 0.0013", "show.plan"),
    "extract": ("write the code that a log carries into an empty folder",
                "python -m records extract records/runs/ONE.txt /tmp/run", "read.extract"),
    "checkout": ("write a record's script into train_gpt2.py, to start from it",
                 "python -m records checkout 2026-11-22_Muon my_submission.py", "again.checkout"),
    "rerun": ("run a log's code again and judge the new run against the old",
              "python -m records rerun records/runs/ONE.txt --yes", "again.rerun"),
    "judge": ("judge a run by its log and weights alone: loss, what it sees ahead, its first weights",
              "python -m records judge -1", "again.judge"),
    "generate": ("write text with a run's model",
                 'python -m records generate @latest --prompt "In 1856, Abraham Lincoln"', "again.generate"),
    "evaluate": ("tell what a text costs a run's model, in nats per token and bits per byte",
                 "python -m records evaluate @latest README.md", "again.evaluate"),
    "export": ("write a run's model into a folder that needs torch alone, the lab's GPT-2 as transformers'",
               "python -m records export @latest exported", "again.export"),
    "plot": ("draw the losses of runs, or the history of a track's records",
             "python -m records plot records/runs/*.txt -o losses.png --x time --ladder", "show.plot"),
    "history": ("write the history of tracks from logs alone, as table and figure, beside what a README says",
                "python -m records history records/sample -o /tmp/history", "show.history"),
    "leaderboard": ("write each track's table in README.md from the records",
                    "python -m records leaderboard --check", "publish.leaderboard"),
    "seeds": ("repeat a run, one seed after another, until the track's rule decides",
              "./run.sh --seeds auto", "again.seeds"),
}


class Parser(argparse.ArgumentParser):
    """Refuses a command line in one line, as a command refuses a file."""

    def error(self, message: str) -> NoReturn:
        """Raise ReadError with what is wrong and where help is."""
        raise ReadError(f"{message}; see {self.prog} --help")


def main(argv: list[str] | None = None) -> int:
    """Run a command line; return the exit code: 0 holds, 1 does not hold, 2 could not tell."""
    parser = Parser(prog="python -m records", description=__doc__,
                    epilog="example: python -m records plot --help")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    argv = sys.argv[1:] if argv is None else argv
    asked = next((word for word in argv if not word.startswith("-")), None)
    try:
        for name, (does, example, room) in COMMANDS.items():
            command = commands.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.",
                                          formatter_class=argparse.RawDescriptionHelpFormatter,
                                          epilog=f"example: {example}")
            if name == asked:  # only what is needed: verify is to answer at once
                module = importlib.import_module(f"records.tools.{room}")
                for names, options in module.ARGUMENTS.items():
                    switch = {"action": "store_true", "help": options}
                    options = switch if isinstance(options, str) else options
                    command.add_argument(*names.split(), **options)
        arguments = parser.parse_args(argv)
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # for terminals that lack a letter
        code = module.main(arguments)
        sys.stdout.flush()  # a full disk shows here, not behind the exit code
        return code
    except BrokenPipeError:
        sys.stderr.close()  # `| head` has seen enough
        return 2  # what it did not print it did not tell
    except (ReadError, OSError, ModuleNotFoundError, KeyboardInterrupt) as error:
        words = str(error) or "interrupted"  # Ctrl-C has no words
        if isinstance(error, ModuleNotFoundError):
            words = f"{error.name} is missing; pip install -r records/requirements.txt"
        print(f"records{f' {asked}' if asked else ''}: {words}", file=sys.stderr, flush=True)
        if isinstance(error, OSError):
            os._exit(2)  # Python would fail once more to write what is left
        return 130 if isinstance(error, KeyboardInterrupt) else 2


if __name__ == "__main__":
    sys.exit(main())
