"""The command line `composer`.

Exit codes: 0 done; 1 the server refused the request (4xx); 2 wrong command line, or a file that it
names cannot be read; 3 the server cannot be reached; 4 the server failed (5xx, a broken stream);
130 interrupted. `adapters` inspect, merge, extract, unpack and patch: see adapters/cli.py;
`router`: see clients/cli/router_commands.py.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from clients import errors
from clients.cli import generate_commands
from clients.cli.adapter_arguments import add_adapters, admin_client
from clients.cli.arguments import CommandLineError, add_composition, assignment
from clients.cli.composition_commands import add_compositions
from clients.cli.router_commands import add_router
from clients.client import Client

REFUSED, USAGE, UNREACHABLE, FAILED, INTERRUPTED = 1, 2, 3, 4, 130


def main(argv: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if argv is None else argv
    try:
        arguments = build_parser(words).parse_args(words)
        if "local" in arguments:  # runs and reports errors by itself, without a server
            return int(arguments.local(arguments))
        with _client(arguments) as client:
            arguments.run(client, arguments)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output has gone, as in `composer chat ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except (CommandLineError, ValueError) as error:
        return fail(USAGE, str(error))
    except errors.ClientError as error:
        return fail(exit_code(error), error.message)
    except OSError as error:
        return fail(USAGE, str(error))
    return 0


def _client(arguments: argparse.Namespace) -> Client:
    if "admin_key" in arguments:
        return admin_client(arguments)
    return Client(arguments.base_url, api_key=arguments.api_key)


def exit_code(error: errors.ClientError) -> int:
    if isinstance(error, errors.ConnectionFailed):
        return UNREACHABLE
    if isinstance(error, errors.ApiError) and not isinstance(
        error, errors.ServerError | errors.StreamError
    ):
        return REFUSED
    return FAILED


def fail(code: int, message: str) -> int:
    print(f"composer: {' '.join(message.split())}", file=sys.stderr)
    return code


def build_parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser for the command line `words`.

    Raises:
        UsageError: it asks for a command of packages that are not installed.
    """
    parser = argparse.ArgumentParser(
        prog="composer", description="Ask a server that composes language models."
    )
    parser.add_argument("--base-url", help="default: $COMPOSER_BASE_URL or the local server")
    parser.add_argument("--api-key", help="default: $COMPOSER_API_KEY or none")
    commands_ = parser.add_subparsers(required=True, metavar="COMMAND")

    chat = commands_.add_parser("chat", help="ask one question, or talk if none is given")
    chat.add_argument("question", nargs="?", help="'-' reads it from the standard input")
    chat.add_argument(
        "--model", default="base", help="base, an adapter, a stored composition, a formula or auto"
    )
    add_composition(chat)
    chat.add_argument("--system", help="the system message")
    chat.add_argument(
        "--routing", action="store_true", help="tell the weights of the experts, on standard error"
    )
    chat.add_argument(
        "--compare", action="store_true", help="print what each expert answers alone, too"
    )
    chat.add_argument("--stream", action="store_true", help="print the answer while it is made")
    chat.add_argument("--json", action="store_true", help="print the server's whole answer")
    chat.add_argument("--max-tokens", type=int)
    chat.add_argument("--temperature", type=float)
    chat.add_argument("--top-p", type=float)
    chat.add_argument("--top-k", type=int)
    chat.add_argument("--seed", type=int)
    chat.add_argument("--stop", action="append", help="may be given several times")
    chat.add_argument(
        "--extra",
        action="append",
        default=[],
        type=assignment,
        metavar="FIELD=VALUE",
        help="a further field of the request; the value is JSON or else text",
    )
    chat.set_defaults(run=generate_commands.chat)

    models = commands_.add_parser("models", help="list what the server serves")
    models.set_defaults(run=generate_commands.models)

    add_compositions(commands_)
    add_adapters(commands_, words)
    add_router(commands_)
    return parser


if __name__ == "__main__":
    sys.exit(main())
