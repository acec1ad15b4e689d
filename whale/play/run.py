"""What `whale play` runs."""

import contextlib
import ipaddress
import signal
import sys
from importlib.util import find_spec

from whale.cli import Task
from whale.errors import UserError
from whale.play.catalogue import Catalogue
from whale.play.config import PlayConfig
from whale.play.server import listen, serve


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def run_play(config: PlayConfig) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Raises:
        UserError: the extra `play` is not installed, the port is taken, no episode is long enough, or a model and the
            clips do not fit.
    """
    if missing := [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]:
        raise UserError(f"the page needs {' and '.join(missing)}", "pip install 'whale[play]'")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does, while models load too
    with contextlib.suppress(KeyboardInterrupt), listen(config.host, config.port) as listener:
        catalogue = Catalogue(config)
        host = f"[{config.host}]" if ":" in config.host else config.host
        if not is_loopback(config.host):
            sys.stderr.write(
                f"whale: warning: listening on {host}: everyone who reaches this machine can drive, without a "
                "password\n  remedy: leave `host` out, and reach it through `ssh -L`\n"
            )
        models, episodes = ", ".join(catalogue.models), len(catalogue.starts.names)
        sys.stdout.write(f"{episodes} episodes of {catalogue.dataset!r}, {config.split} split; models: {models}\n"
                         f"open http://{host}:{listener.getsockname()[1]}/   (Ctrl-C ends)\n")  # fmt: skip
        sys.stdout.flush()
        serve(catalogue, listener)


TASK = Task(PlayConfig, run_play)
