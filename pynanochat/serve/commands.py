"""`pynanochat serve RUN`: a run's chat page and API; `pynanochat watch RUN`: the training page alone, no model."""

import argparse
import asyncio
import logging
import os
import sys
import webbrowser
from pathlib import Path

from pynanochat import settings
from pynanochat.errors import UsageError
from pynanochat.runs import find_run
from pynanochat.serve.gate import LOOPBACK, Access, Gate, host_name
from pynanochat.serve.limits import Defaults, Limits
from pynanochat.serve.server import Server, allow_connections, is_loopback

KEY_VARIABLE = "PYNANOCHAT_API_KEY"


def serve_main(argv: list[str]) -> None:
    """Raises PynanochatError for a run, an address or a flag that cannot be used."""
    parser = _parser("serve", "Serve a run: a chat page, and an API that OpenAI's clients speak.", 8000)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--dtype", default="auto", help="bf16 or fp32; auto is fp32 on a CPU and bf16 on a GPU")
    parser.add_argument("--rows", type=int, default=64, metavar="N", help="answers decoded at once (default 64)")
    parser.add_argument("--cache-tokens", type=int, metavar="N", help="tokens that the KV cache holds")
    settings.add_flags(parser, Limits, flag_prefix="limit_", dest_prefix="limit_")
    settings.add_flags(parser, Defaults, flag_prefix="default_", dest_prefix="default_")
    args = parser.parse_args(argv)
    limits, defaults = _fields(Limits, args, "limit_"), _fields(Defaults, args, "default_")
    defaults.check(limits)
    access = _access(args)
    folder = _folder(args)
    _log_to_stderr(args.quiet)
    from pynanochat.engine.process import EngineProcess

    engine = EngineProcess(
        folder, device=args.device, dtype=args.dtype, cache_tokens=args.cache_tokens, most_rows=args.rows
    )
    asyncio.run(serve(engine, folder, args, limits, defaults, access))


async def serve(engine, folder: Path, args, limits: Limits, defaults: Defaults, access: Access) -> None:
    """Serve `folder` by `engine` until a signal; args: host, port, open."""
    from pynanochat.serve.app import App

    limits = allow_connections(limits)
    app = App(engine, folder, limits, defaults)
    server = Server(Gate(app.routes, access, app.metrics), limits, app.desk)
    await server.listen(args.host, args.port)

    async def start():
        print(f"{folder.name}: loading the model ...", file=sys.stderr, flush=True)
        await engine.start()
        print(f"{folder.name} is at {server.address}  (API: {server.address}/v1)", flush=True)
        if args.open:
            await asyncio.to_thread(webbrowser.open, server.address)

    await server.serve(start, engine.stop)


def watch_main(argv: list[str]) -> None:
    """Raises PynanochatError for a run or an address that cannot be used."""
    parser = _parser("watch", "Live curves of a run in the browser; needs no model.", 8001)
    args = parser.parse_args(argv)
    _log_to_stderr(args.quiet)
    asyncio.run(_watch(_folder(args), args, Limits()))


async def _watch(folder, args, limits):
    from pynanochat.serve.app import watch_routes
    from pynanochat.serve.metrics import Metrics

    server = Server(Gate(watch_routes(folder), _access(args), Metrics()), limits)
    await server.listen(args.host, args.port)
    print(f"{folder.name} is at {server.address}", flush=True)
    if args.open:
        await asyncio.to_thread(webbrowser.open, server.address)
    await server.serve()


def _parser(name, description, port):
    p = argparse.ArgumentParser(prog=f"pynanochat {name}", description=description)
    p.add_argument("name", nargs="?", metavar="RUN", help="a run under runs/, or its folder; by default the newest one")
    p.add_argument("--run", metavar="NAME", help="the same as RUN")
    p.add_argument("--host", default="127.0.0.1", help="address to bind (default: %(default)s, this machine alone)")
    p.add_argument("--port", type=int, default=port, help="0 takes a free one (default: %(default)s)")
    p.add_argument("--open", action="store_true", help="open the page in a browser")
    p.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help=f"holds the key that clients must send (or ${KEY_VARIABLE})"
    )
    p.add_argument(
        "--cors-origin", action="append", default=[], metavar="URL", help="pages of this origin may ask; * for all"
    )
    p.add_argument("--allow-host", action="append", default=[], metavar="NAME", help="one more name of this server")
    p.add_argument("--quiet", action="store_true", help="log no requests")
    p.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return p


def _folder(args) -> Path:
    if args.name and args.run and args.name != args.run:
        raise UsageError(f"RUN is {args.name} and --run is {args.run}: name one run")
    return find_run(args.run or args.name)


def _fields(cls, args, prefix):
    """The settings object whose fields were given as flags."""
    given = {name.removeprefix(prefix): value for name, value in vars(args).items() if name.startswith(prefix)}
    return settings.build(cls, given)


def _access(args) -> Access:
    """Who may ask. Raises UsageError for a public address without a key."""
    key = read_key(args.api_key_file)
    local = is_loopback(args.host)
    if not local and key is None:
        raise UsageError(
            f"--host {args.host}: others can reach it, so a key is needed; give --api-key-file FILE or "
            f"set {KEY_VARIABLE}"
        )
    hosts = None
    if local or args.allow_host:
        hosts = frozenset([*LOOPBACK, host_name(args.host), *map(str.lower, args.allow_host)])
    return Access(key, frozenset(origin.rstrip("/").lower() for origin in args.cors_origin), hosts)


def read_key(file: Path | None) -> str | None:
    """The API key of a file, else of the environment, else None. Raises UsageError for a file without one."""
    if file is None:
        return os.environ.get(KEY_VARIABLE, "").strip() or None
    try:
        key = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not text"
        raise UsageError(f"--api-key-file {file}: cannot be read ({why}); name a text file") from None
    if not key or "\n" in key:
        raise UsageError(f"--api-key-file {file}: must hold one line, the key; write one into it")
    return key


def _log_to_stderr(quiet: bool) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger = logging.getLogger("pynanochat.serve")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
