"""The research bench: python -m lab COMMAND. Each command explains itself with --help."""
import argparse
import importlib
import sys

from lab.environment import restart_with_variables

COMMANDS = {  # command: (module with add_arguments and main, one line)
    "train": ("train", "train one recipe, as ./run.sh trains the submission"),
    "recipe": ("show", "print a recipe in full: what it costs, and its table of init, rates and factors"),
    "coord-check": ("coord_check", "how activations and logits change with width after a few steps"),
    "sweep": ("sweep.sweep", "run a space of recipes, grid or random, in parallel, resumable"),
    "report": ("sweep.report", "what the logs of a sweep say"),
    "better": ("sweep.better", "is one arm of a sweep better than another: supported, not, undecided"),
    "shift": ("sweep.shift", "does the best value of one axis of a sweep, a rate say, move along another"),
    "optimizers": ("studies.optimizers", "study: is a learned optimizer better than AdamW and Muon, tuned?"),
    "transfer": ("studies.transfer", "study: do the best hyperparameters of a small model serve a large?"),
    "warmup": ("studies.warmup", "study: what does learning-rate warm-up do under sp and mup?"),
    "meta-train": ("studies.meta_train", "train the weights of small_fc, on tiny language models"),
    "hlb": ("studies.hlb", "study: which of hlb-gpt's ideas help at equal tokens?"),
    "scale": ("studies.scale", "study: does what a submission gains grow, hold or fade with width?"),
    "ladder": ("studies.ladder", "study: which techniques of the frontier pay at laptop size?"),
    "search": ("studies.search", "study: the best recipe for a budget of FLOPs"),
}


def main(argv: list[str]) -> int:
    """Run a command; return the exit code: 2 where the input cannot be used."""
    parser = argparse.ArgumentParser(prog="python -m lab", description=__doc__,
                                     epilog="example: python -m lab train --help")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, line) in COMMANDS.items():
        commands.add_parser(name, help=line, add_help=False)
    arguments, rest = parser.parse_known_args(argv)
    name, line = COMMANDS[arguments.command]
    try:
        module = importlib.import_module(f"lab.{name}")
        own = argparse.ArgumentParser(prog=f"python -m lab {arguments.command}", description=line,
                                      formatter_class=argparse.RawDescriptionHelpFormatter)
        module.add_arguments(own)
        code = module.main(own.parse_args(rest))
        sys.stdout.flush()  # a full disk shows here, not behind the exit code
        return code
    except BrokenPipeError:
        sys.stderr.close()  # `| head` has seen enough
        return 2
    except ModuleNotFoundError as error:
        words = f": {error.name.partition('.')[0]} is missing; python -m pip install -r lab/requirements.txt"
        code = 2
    except (ValueError, OSError, MemoryError) as error:
        words, code = f" {arguments.command}: {error}", 2
    except KeyboardInterrupt:  # torch alone takes seconds to import
        words, code = f" {arguments.command}: interrupted", 130
    print(f"lab{words}", file=sys.stderr)
    return code


if __name__ == "__main__":
    restart_with_variables("lab", sys.argv[1:])
    sys.exit(main(sys.argv[1:]))
