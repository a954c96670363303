"""The command line: `python -m slm_backends list | show | fetch | chat | serve ...`

Knows arguments, exit codes and how errors are shown. What a command does is in the module that it
imports when it is called, so that `--help` costs nothing.

Exit codes: 0 done, 1 failed, with a sentence on standard error, 2 wrong usage, 130 Ctrl-C.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from slm_backends import terminal
from slm_backends.chat import PARAMETERS
from slm_backends.errors import SLMError

STOPPED = 130  # as shells report a process that SIGINT ended


def main(arguments: Sequence[str] | None = None) -> int:
    terminal.tolerate_any_text()
    options = _options(arguments)
    try:
        code: int = options.command(options)
        sys.stdout.flush()
        return code
    except SLMError as error:
        terminal.say_error(error)
        return 1
    except KeyboardInterrupt:
        return STOPPED
    except BrokenPipeError:
        # The reader has gone. Python flushes standard output once more at exit: into nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """What was asked. argparse takes a prompt that may be left out for left out as soon as an
    option follows the words before it; it is found among what is left over."""
    parser = _parser()
    options, left = parser.parse_known_args(arguments)
    if len(left) == 1 and getattr(options, "prompt", "") is None and left[0][:1] != "-":
        options.prompt = left.pop()
    if left:
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m slm_backends",
        description="Small language models on any runtime, from the command line.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, summary: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=summary, description=summary, allow_abbrev=False)

    listing = command("list", "Show deployments, and what each of them still needs.")
    listing.add_argument("--ready", action="store_true", help="only those that are here")
    listing.add_argument("--fits", action="store_true", help="only those that fit in memory")
    listing.add_argument("--family", metavar="NAME", help="only this family of models")
    listing.add_argument("--runtime", metavar="NAME", help="only this runtime")
    listing.add_argument("--probe", action="store_true", help="ask the servers that are set up")
    listing.add_argument("--json", action="store_true", help="print a JSON list")
    listing.set_defaults(command=_list)

    showing = command("show", "Tell everything about a deployment or a model.")
    showing.add_argument("id", metavar="ID", help="an id that `list` shows, or a model's")
    showing.add_argument(
        "--context", type=_tokens, metavar="N", help="reckon memory for a conversation of N tokens"
    )
    showing.set_defaults(command=_show)

    fetching = command("fetch", "Bring the weights of local deployments to this computer.")
    fetching.add_argument("deployments", nargs="+", metavar="DEPLOYMENT")
    fetching.set_defaults(command=_fetch)

    removing = command("remove", "Delete the weights of local deployments from this computer.")
    removing.add_argument("deployments", nargs="+", metavar="DEPLOYMENT")
    removing.add_argument("--yes", action="store_true", help="do not ask first")
    removing.set_defaults(command=_remove)

    chatting = command("chat", "Ask a model, once or in a conversation.")
    chatting.add_argument("deployment", metavar="DEPLOYMENT", help="an id that `list` shows")
    chatting.add_argument(
        "prompt",
        nargs="?",
        metavar="PROMPT",
        help="the question; '-' or a pipe reads it from standard input; "
        "without any, on a terminal, a conversation begins",
    )
    _add_images(chatting, "goes with the first question")
    chatting.add_argument("--json", action="store_true", help="print one JSON object, at the end")
    chatting.epilog = "fake@tokens=50,rate=20 answers without any model: for a try."
    _add_sampling(chatting)
    chatting.set_defaults(command=_chat)

    comparing = command("compare", "Ask several deployments the same; tell where replies part.")
    comparing.add_argument("first", metavar="DEPLOYMENT", help="ids that `list` shows")
    comparing.add_argument("others", nargs="+", metavar="DEPLOYMENT")
    comparing.add_argument(
        "--prompts",
        metavar="FILE",
        help="a prompt a line, or a .jsonl file with objects that have a prompt and perhaps a "
        "system; a handful of our own without",
    )
    _add_images(comparing, "goes with each prompt")
    comparing.add_argument(
        "--max-tokens",
        type=int,
        default=64,
        metavar="N",
        help="length of a reply at most (%(default)s)",
    )
    comparing.add_argument("--json", action="store_true", help="print a JSON object")
    comparing.set_defaults(command=_compare)

    asking = command("multilingual", "Ask deployments the same in many languages; measure replies.")
    asking.add_argument(
        "deployments", nargs="*", metavar="DEPLOYMENT", help="ids that `list` shows"
    )
    asking.add_argument(
        "--task",
        choices=["ask", "answer-in", "translate", "summarise", "solve"],
        default="ask",
        help="what is asked of the shipped set (%(default)s)",
    )
    asking.add_argument(
        "--languages",
        default="few",
        metavar="LIST",
        help="codes or names with commas between them, or few, phi (the 23 of Phi-3.5), all",
    )
    asking.add_argument(
        "--prompts",
        default="",
        metavar="LIST",
        help="some of the shipped prompts, as rain,tea; or a .csv, .jsonl or .xlsx file with "
        "columns language, prompt and perhaps reference; all of the task's without",
    )
    asking.add_argument(
        "--other", default="en", metavar="LANGUAGE", help="translate: the other end (%(default)s)"
    )
    asking.add_argument("--back", action="store_true", help="translate: into that language")
    asking.add_argument("--max-tokens", type=int, default=200, metavar="N", help="(%(default)s)")
    asking.add_argument("--temperature", type=float, default=0.0, metavar="N", help="(%(default)s)")
    asking.add_argument("--seed", type=int, metavar="N", help="for a temperature above 0")
    asking.add_argument(
        "--at-once",
        type=int,
        default=0,
        metavar="N",
        help="requests that each deployment has under way; 0: as many as go well (%(default)s)",
    )
    asking.add_argument("--out", metavar="FILE", help="where replies are kept, a line each")
    asking.add_argument("--resume", metavar="FILE", help="go on with a run that was cut off")
    asking.add_argument(
        "--failed", action="store_true", help="with --resume: ask what failed again"
    )
    asking.add_argument("--repeat", metavar="FILE", help="the run of that file, from the beginning")
    asking.add_argument("--report", default="", metavar="FILE", help="a ZIP with report and charts")
    asking.add_argument("--json", action="store_true", help="print a JSON object")
    asking.set_defaults(command=_multilingual)

    serving = command("serve", "Serve one local deployment with the OpenAI protocol.")
    serving.add_argument("deployment", metavar="DEPLOYMENT", help="an id that `list` shows")
    serving.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    serving.add_argument("--port", type=int, default=8000, help="0 picks a free one (%(default)s)")
    serving.add_argument(
        "--api-key",
        metavar="KEY",
        help="what callers must send; better set as SLM_API_KEY, "
        "since other users of this computer can read arguments",
    )
    serving.set_defaults(command=_serve)

    examining = command("doctor", "Look at this computer: what works, what does not, what to do.")
    examining.add_argument("--json", action="store_true", help="print a JSON object")
    examining.set_defaults(command=_doctor)
    return parser


def _add_sampling(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("how to answer")
    group.add_argument("--system", metavar="TEXT", default="", help="the system prompt")
    for name, parameter in PARAMETERS.items():
        default = "" if parameter.default is None else f" ({parameter.default:g})"
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=parameter.kind,
            metavar="N",
            help=parameter.help.rstrip(".") + default,
        )
    group.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="end the reply before this text; may be given several times",
    )


def _add_images(parser: argparse.ArgumentParser, purpose: str) -> None:
    parser.add_argument(
        "--image",
        action="append",
        default=[],
        metavar="FILE",
        help=f"a PNG, JPEG or WEBP that {purpose}; may be given several times",
    )


def _tokens(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number of tokens, not {text!r}")
    return int(text)


def _list(options: argparse.Namespace) -> int:
    from slm_backends import cli_models

    return cli_models.show_list(
        as_json=options.json,
        ready=options.ready,
        fitting=options.fits,
        family=options.family,
        runtime=options.runtime,
        probe=options.probe,
    )


def _show(options: argparse.Namespace) -> int:
    from slm_backends import cli_show

    return cli_show.show(options.id, options.context)


def _fetch(options: argparse.Namespace) -> int:
    from slm_backends import cli_models

    return cli_models.fetch(options.deployments)


def _remove(options: argparse.Namespace) -> int:
    from slm_backends import cli_models

    return cli_models.remove(options.deployments, sure=options.yes)


def _chat(options: argparse.Namespace) -> int:
    from slm_backends import cli_chat

    given = {name: getattr(options, name) for name in PARAMETERS}
    sampling = {name: value for name, value in given.items() if value is not None}
    return cli_chat.chat(
        options.deployment,
        options.prompt,
        images=options.image,
        system=options.system,
        sampling=sampling | {"stop": tuple(options.stop)},
        as_json=options.json,
    )


def _compare(options: argparse.Namespace) -> int:
    from slm_backends import cli_compare

    return cli_compare.show(
        [options.first, *options.others],
        options.prompts,
        images=options.image,
        max_tokens=options.max_tokens,
        as_json=options.json,
    )


def _multilingual(options: argparse.Namespace) -> int:
    from slm_backends import cli_multilingual

    return cli_multilingual.main(options)


def _serve(options: argparse.Namespace) -> int:
    from slm_backends import cli_serve

    api_key = options.api_key
    if api_key is None:
        api_key = os.environ.get("SLM_API_KEY", "")
    cli_serve.serve(options.deployment, options.host, options.port, api_key)


def _doctor(options: argparse.Namespace) -> int:
    from slm_backends import doctor

    return doctor.show(as_json=options.json)


if __name__ == "__main__":
    sys.exit(main())
